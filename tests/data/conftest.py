"""Slices are small, and test machines are shared: one thread is fastest."""

import torch

torch.set_num_threads(1)
