-- Who is connected, what the sessions do, and what bounds them.

-- name: clients
-- A session whose state this login may not see has no backend_type either; background processes have no role.
SELECT a.pid, a.datname::text AS database, a.usename::text AS role, COALESCE(a.application_name, '') AS application,
  a.client_addr::text AS client, a.backend_type IS NULL AS is_hidden, a.state,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.state_change)::float8 AS state_s,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS transaction_s,
  a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL AS holds_rows,
  CASE WHEN a.state LIKE 'idle in transaction%' THEN pg_catalog.left(a.query, 1000) END AS query
FROM pg_catalog.pg_stat_activity a
WHERE (a.backend_type = 'client backend' OR a.backend_type IS NULL AND a.usesysid IS NOT NULL AND a.datid IS NOT NULL)
  AND a.pid <> pg_catalog.pg_backend_pid();

-- name: connection_limits
-- 0 lets nobody in, on purpose; superusers are let in past the limit of their role.
SELECT 'database' AS kind, d.datname::text AS name, d.datconnlimit AS most
FROM pg_catalog.pg_database d WHERE d.datconnlimit > 0
UNION ALL
SELECT 'role', r.rolname::text, r.rolconnlimit FROM pg_catalog.pg_roles r WHERE r.rolconnlimit > 0 AND NOT r.rolsuper;

-- name: role_settings
-- What ALTER ROLE and ALTER DATABASE have set; the settings of a role in a database come first.
SELECT d.datname::text AS database, r.rolname::text AS role,
  pg_catalog.split_part(c.pair, '=', 1) AS name, pg_catalog.substr(c.pair, pg_catalog.strpos(c.pair, '=') + 1) AS value
FROM pg_catalog.pg_db_role_setting s
CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c (pair)
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE (s.setdatabase = 0 OR d.datname = pg_catalog.current_database())
  AND pg_catalog.split_part(c.pair, '=', 1) IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC;
