"""The paper's tables as one command: protocols as data, shards that finish once, tables from what they left."""
