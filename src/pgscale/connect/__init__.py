"""DSNs, sessions with profiles, the only retry, and what stands between us and the server."""
