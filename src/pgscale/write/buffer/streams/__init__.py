"""A log of Redis streams: for producers on many machines, as durable as the server is."""
