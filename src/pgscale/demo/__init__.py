"""The demo: real tables become partitioned under a live load, in front of a person, with a proof at the end."""
