"""The strategy attach: the table becomes the first partition of a new one, and no row moves."""
