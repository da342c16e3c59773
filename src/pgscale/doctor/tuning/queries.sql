-- name: read_settings
-- Not `setting` and its source: our own session has SET some. ALTER DATABASE and ALTER ROLE show only in their catalog
-- then. Names with a dot belong to extensions, which judge them themselves.
SELECT s.name, s.vartype, s.unit, s.min_val, s.max_val, s.enumvals, s.boot_val, s.context, s.reset_val,
  coalesce(own.source, s.source), s.pending_restart
FROM pg_catalog.pg_settings s
LEFT JOIN (
  SELECT DISTINCT ON (1) pg_catalog.split_part(entry, '=', 1) AS name,
    CASE WHEN d.setrole = 0 THEN 'database' WHEN d.setdatabase = 0 THEN 'user' ELSE 'database user' END AS source
  FROM pg_catalog.pg_db_role_setting d, pg_catalog.unnest(d.setconfig) entry
  WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = current_database()))
    AND d.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = session_user))
  ORDER BY 1, d.setrole <> 0 DESC, d.setdatabase <> 0 DESC
) own ON own.name = s.name
WHERE s.name !~ '[.]'

-- name: read_server
SELECT
  pg_catalog.pg_is_in_recovery(),
  pg_catalog.pg_backend_pid(),
  (SELECT extract(epoch FROM a.backend_start)::float8 FROM pg_catalog.pg_stat_activity a
    WHERE a.pid = pg_catalog.pg_backend_pid()),
  pg_catalog.inet_server_addr() IS NULL,
  CASE WHEN pg_catalog.pg_has_role('pg_monitor', 'USAGE')
    THEN (SELECT count(*)::int FROM pg_catalog.pg_stat_replication) END

-- name: read_rights
-- since: 150000
SELECT
  r.rolname::text,
  r.rolsuper,
  r.rolsuper OR pg_catalog.has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'),
  ARRAY(
    SELECT n FROM pg_catalog.unnest(%(names)s::text[]) n
    WHERE pg_catalog.has_parameter_privilege(n, 'ALTER SYSTEM')
  )
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user

-- name: read_rights
-- until: 150000
SELECT
  r.rolname::text,
  r.rolsuper,
  r.rolsuper OR pg_catalog.has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'),
  CASE WHEN r.rolsuper THEN %(names)s::text[] ELSE ARRAY[]::text[] END
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user

-- name: read_auto_conf
-- What ALTER SYSTEM wrote so far; the last line of a name counts. Only superusers may, unless they gave the right away.
SELECT DISTINCT ON (name) name, setting
FROM pg_catalog.pg_file_settings
WHERE name = ANY (%(names)s::text[]) AND sourcefile LIKE '%%postgresql.auto.conf'
ORDER BY name, seqno DESC

-- name: reload
SELECT pg_catalog.pg_reload_conf()
