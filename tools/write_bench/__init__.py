"""The parts of `make bench-write`."""
