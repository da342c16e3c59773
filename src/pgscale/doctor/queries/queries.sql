-- What runs now.

-- name: running
-- Neither walsenders nor autovacuum, which are no clients, nor what other commands of pgscale do. A session whose state
-- this login may not see has no backend_type either; background processes have no role.
SELECT a.pid, a.datname::text AS database, a.usename::text AS role, COALESCE(a.application_name, '') AS application,
  a.client_addr::text AS client, a.backend_type IS NULL AS is_hidden,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.query_start)::float8 AS runs_s,
  a.wait_event_type AS waits_for, pg_catalog.left(a.query, 1000) AS query, a.backend_start AS started_at
FROM pg_catalog.pg_stat_activity a
WHERE (a.backend_type = 'client backend' AND a.state IN ('active', 'fastpath function call')
    OR a.backend_type IS NULL AND a.usesysid IS NOT NULL AND a.datid IS NOT NULL)
  AND a.pid <> pg_catalog.pg_backend_pid()
  AND COALESCE(a.application_name, '') NOT LIKE 'pgscale/%'
ORDER BY a.query_start;
