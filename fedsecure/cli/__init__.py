"""The command line. Modules here import torch and everything heavy only inside the commands that need it."""
