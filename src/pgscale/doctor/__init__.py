"""The doctor: where a database stands, what holds it back, what to do. Checks only read, and wait for nobody."""
