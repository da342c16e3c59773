"""Which phase of its life a database is in, and the one next step that would bring most."""
