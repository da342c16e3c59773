"""VACUUM, ANALYZE and REINDEX CONCURRENTLY of what the checks say needs it, in a window, at a pace, resumable."""
