"""Divide one big partition of a partitioned table into proper ones, under live writes."""
