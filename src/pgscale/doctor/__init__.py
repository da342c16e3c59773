"""The doctor: where a database stands, what holds it back, what to do. Reads only; waits for nobody."""
