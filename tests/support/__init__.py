"""What tests stand on: servers, databases, clients, a PgBouncer. Import it as `support`."""
