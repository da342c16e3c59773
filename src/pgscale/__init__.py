"""pgscale takes one PostgreSQL from its first table to many machines: live, nothing lost."""

__version__ = "0.1.0"
