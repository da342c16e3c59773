"""Compose the SQL of the strategy `move`. Pure: facts in, SQL text out."""
