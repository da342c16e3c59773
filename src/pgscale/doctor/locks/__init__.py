"""Who waits for whom, and ending what holds them up."""
