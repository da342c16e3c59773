"""The life of range partitions: made ahead of time, retired when they are over their age."""
