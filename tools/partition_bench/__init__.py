"""The parts of the partitioning benchmark; see ../bench_partition.py."""
