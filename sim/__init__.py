"""The world we play: partitions of one data set into hospitals, and whole federations on one machine."""
