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
