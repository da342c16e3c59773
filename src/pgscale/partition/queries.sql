-- What a plan looks at beside the table itself. Only SELECTs; no lock on the table.

-- name: statements_extension
SELECT n.nspname::text AS schema, e.extversion AS version
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements';

-- name: extended_statistics
-- since: 150000
SELECT s.statistics_name::text AS name, s.n_distinct::text AS n_distinct
FROM pg_catalog.pg_stats_ext s
WHERE s.schemaname = %(schema)s::text AND s.tablename = %(table)s::text AND s.n_distinct IS NOT NULL
  AND NOT s.inherited
ORDER BY 1;

-- name: extended_statistics
-- until: 150000
SELECT s.statistics_name::text AS name, s.n_distinct::text AS n_distinct
FROM pg_catalog.pg_stats_ext s
WHERE s.schemaname = %(schema)s::text AND s.tablename = %(table)s::text AND s.n_distinct IS NOT NULL
ORDER BY 1;

-- name: hidden_columns
-- pg_stats shows a column only to who may SELECT it.
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attname = ANY (%(columns)s::text[])
  AND NOT pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
ORDER BY a.attnum;

-- name: logs_hint_bits
SELECT pg_catalog.current_setting('data_checksums') = 'on' OR pg_catalog.current_setting('wal_log_hints') = 'on';

-- name: measured_copies
-- A copy that was stopped and resumed is left out: its row tells the time of the last process only.
SELECT r.table_name AS table_name, p.last_page AS pages, s.duration_s AS took_s,
  r.plan::jsonb -> 'options' ->> 'pace' AS pace, (r.plan::jsonb -> 'options' ->> 'workers')::int4 AS workers
FROM pgscale.run r
JOIN pgscale.chunk p ON p.run_id = r.id AND p.phase = 'pages'
JOIN pgscale.step s ON s.run_id = r.id AND s.step_id = 'copy'
JOIN pgscale.step b ON b.run_id = r.id AND b.step_id = 'capture'
WHERE s.duration_s >= 1 AND EXTRACT(EPOCH FROM s.finished_at - b.finished_at) <= s.duration_s * 1.1 + 1
ORDER BY p.last_page DESC
LIMIT 1;

-- name: cache_size
-- effective_cache_size counts blocks.
SELECT s.setting::int8 * pg_catalog.current_setting('block_size')::int8 AS bytes, s.source = 'default' AS is_default
FROM pg_catalog.pg_settings s WHERE s.name = 'effective_cache_size';

-- name: hides_rows
-- Row-level security that holds for this login hides the statistics too.
SELECT pg_catalog.row_security_active(%(oid)s::int8::pg_catalog.oid);

-- name: tablespace_location
-- Empty for the default one, which lies in the data directory.
SELECT pg_catalog.pg_tablespace_location(CASE WHEN c.reltablespace = 0 THEN d.dattablespace ELSE c.reltablespace END)
FROM pg_catalog.pg_class c, pg_catalog.pg_database d
WHERE c.oid = %(oid)s::int8::pg_catalog.oid AND d.datname = pg_catalog.current_database();

-- name: written_rows
-- Rows inserted, updated and deleted since the counters began, and how long ago that was; NULL when they were never reset.
SELECT (t.n_tup_ins + t.n_tup_upd + t.n_tup_del)::int8 AS written,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - d.stats_reset)::float8 AS counted_s
FROM pg_catalog.pg_stat_all_tables t, pg_catalog.pg_stat_database d
WHERE t.relid = %(oid)s::int8::pg_catalog.oid AND d.datname = pg_catalog.current_database();
