"""A log of local segment files: an event is durable when its put returns."""
