"""What a migration would lock, seen by running it in a scratch copy of the schema; and how it is done more gently."""
