"""Rehearse a run on a scratch copy: a share of the table's own rows, in a schema of its own, for real."""
