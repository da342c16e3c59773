"""Which indexes the statements of pg_stat_statements want."""
