"""The strategy for when disk is short: rows leave the old table from its physical end, behind a view."""
