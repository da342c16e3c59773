"""Which key to partition a table by: from its statistics and from the statements that really run."""
