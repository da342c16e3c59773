"""The `pgscale` schema in the target database: runs, their steps and chunks, and who owns a run."""
