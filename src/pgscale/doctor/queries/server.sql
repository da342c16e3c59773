-- What every check may ask about the server, the login and the settings.

-- name: server
SELECT pg_catalog.current_setting('server_version_num')::int4 AS version,
  pg_catalog.current_setting('server_version') AS version_text,
  pg_catalog.current_database()::text AS database,
  d.oid::int8 AS database_oid,
  CURRENT_USER::text AS role,
  r.rolsuper AS is_superuser,
  pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all_statistics,
  pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') AS sees_all_settings,
  pg_catalog.pg_is_in_recovery() AS is_in_recovery,
  pg_catalog.current_setting('block_size')::int4 AS block_bytes,
  pg_catalog.pg_postmaster_start_time() AS started_at,
  pg_catalog.clock_timestamp() AS read_at,
  pg_catalog.pg_stat_get_db_stat_reset_time(d.oid) AS statistics_reset_at
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = pg_catalog.current_database() AND r.rolname = CURRENT_USER;

-- name: system_identifier
SELECT c.system_identifier::text AS system_identifier FROM pg_catalog.pg_control_system() c;

-- name: settings
-- reset_val, because the session that asks has set some for itself.
SELECT s.name, s.reset_val AS value, s.unit, s.vartype AS kind, s.context, s.boot_val AS default_value,
  s.min_val AS least, s.max_val AS most, s.source, s.pending_restart AS is_pending_restart
FROM pg_catalog.pg_settings s;

-- name: extensions
SELECT e.extname::text AS name, e.extversion AS version, n.nspname::text AS schema,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS is_usable
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace;

-- name: oldest_tables
-- A database is known by them where the system identifier is hidden.
SELECT c.oid::int8 AS oid, c.relname::text AS name
FROM pg_catalog.pg_class c
WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384
ORDER BY c.oid
LIMIT 100;
