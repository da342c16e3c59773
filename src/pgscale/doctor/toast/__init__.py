"""What columns have outside their rows, and what other ways to store it would bring, measured on a sample."""
