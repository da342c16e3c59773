"""pg_catalog as typed facts. Reads only."""
