-- What pg_stat_statements has counted in this database. `since` and `until` are the extension's version, 11100 for 1.11,
-- which stays behind the server's until ALTER EXTENSION … UPDATE; its schema is in the search path. Statements that name
-- pg_catalog are those of monitors, ours among them.

-- name: statements
-- since: 10900
SELECT s.queryid::text AS query_id, pg_catalog.max(pg_catalog.left(s.query, 1000)) AS query,
  pg_catalog.string_agg(DISTINCT r.rolname::text, ', ') AS roles,
  pg_catalog.sum(s.calls)::int8 AS calls, pg_catalog.sum(s.total_exec_time)::float8 AS total_ms,
  pg_catalog.sum(s.shared_blks_read)::int8 AS read_blocks, pg_catalog.sum(s.temp_blks_written)::int8 AS temp_blocks,
  pg_catalog.sum(s.wal_bytes)::float8 AS wal_bytes,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.min(s.stats_since))::float8 AS counted_s, -- since: 11100
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.min(i.stats_reset))::float8 AS counted_s, -- until: 11100
  (pg_catalog.sum(pg_catalog.sum(s.total_exec_time)) OVER ())::float8 AS all_ms,
  (pg_catalog.sum(pg_catalog.sum(s.shared_blks_read)) OVER ())::int8 AS all_read_blocks,
  (pg_catalog.sum(pg_catalog.sum(s.temp_blks_written)) OVER ())::int8 AS all_temp_blocks,
  (pg_catalog.sum(pg_catalog.sum(s.wal_bytes)) OVER ())::float8 AS all_wal_bytes
FROM pg_stat_statements s
CROSS JOIN pg_stat_statements_info i -- until: 11100
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.userid
WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND s.toplevel AND s.query NOT LIKE '%pg_catalog.%'
GROUP BY s.queryid;

-- name: pace
-- since: 10900
-- Of the statements that took the most time, to be compared with an earlier run.
SELECT s.queryid::text AS key, pg_catalog.sum(s.calls)::int8 AS calls, pg_catalog.sum(s.total_exec_time)::float8 AS total_ms,
  (SELECT i.stats_reset FROM pg_stat_statements_info i) AS reset_at
FROM pg_stat_statements s
WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND s.toplevel AND s.query NOT LIKE '%pg_catalog.%'
GROUP BY s.queryid
ORDER BY pg_catalog.sum(s.total_exec_time) DESC
LIMIT 100;

-- name: workload
-- since: 10900
-- Those that took the most time, whole: what they read by which conditions is found out from their text. Utility
-- commands and what is longer than anybody wrote by hand are left out.
SELECT s.queryid::text AS query_id, pg_catalog.max(s.query) AS query, pg_catalog.sum(s.calls)::int8 AS calls,
  pg_catalog.sum(s.total_exec_time)::float8 AS total_ms, pg_catalog.sum(s.rows)::int8 AS rows,
  pg_catalog.sum(s.shared_blks_hit + s.shared_blks_read)::int8 AS blocks,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.min(s.stats_since))::float8 AS counted_s -- since: 11100
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.min(i.stats_reset))::float8 AS counted_s -- until: 11100
FROM pg_stat_statements s
CROSS JOIN pg_stat_statements_info i -- until: 11100
WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND s.calls > 0 AND pg_catalog.length(s.query) <= 20000
  AND s.query NOT LIKE '%pg_catalog.%' AND s.query ~* '(^|\W)(select|update|delete)\W'
GROUP BY s.queryid
ORDER BY pg_catalog.sum(s.total_exec_time) DESC
LIMIT 300;
