"""Tuning: settings for a machine and its work, and configuration files held against a version."""
