"""Stored functions on disk against those of the catalog."""
