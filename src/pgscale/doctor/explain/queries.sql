-- What is looked up about the tables of a plan. EXPLAIN has locked them itself (ACCESS SHARE), so that what
-- opens them for a moment (pg_get_indexdef) is no more than it did.

-- name: settings
-- As the query met them: asked in its transaction.
SELECT s.name, s.setting AS value, s.unit, s.source, s.boot_val AS default_value
FROM pg_catalog.pg_settings s
WHERE s.name LIKE 'enable\_%' OR s.name IN ('work_mem', 'hash_mem_multiplier', 'track_io_timing', 'jit',
  'max_parallel_workers', 'max_worker_processes', 'max_parallel_workers_per_gather', 'plan_cache_mode');

-- name: server
SELECT pg_catalog.current_setting('server_version') AS version, pg_catalog.current_database()::text AS database,
  SESSION_USER::text AS role, pg_catalog.current_setting('block_size')::int AS block_bytes,
  pg_catalog.pg_is_in_recovery() AS is_in_recovery;

-- name: statements_schema
SELECT n.nspname::text AS schema, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS is_usable
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements';

-- name: relations
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  c.reltuples::float8 AS rows, c.relpages AS pages, c.relallvisible AS visible_pages,
  COALESCE(s.n_mod_since_analyze, 0)::int8 AS changed_rows, COALESCE(s.n_live_tup, 0)::int8 AS live_rows,
  COALESCE(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid::int8, 0) AS root
FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])) w (schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid;

-- name: columns
-- In pg_stats there is only what the login may see.
SELECT a.attrelid::int8 AS table_oid, a.attname::text AS name, pg_catalog.format_type(a.atttypid, NULL) AS type,
  s.avg_width AS width_bytes, s.n_distinct::float8 AS distinct_values, s.attname IS NOT NULL AS has_statistics,
  NULLIF(a.attstattarget, -1)::int AS target
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
  AND s.inherited = (c.relkind = 'p')
WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped;

-- name: indexes
SELECT i.indrelid::int8 AS table_oid, n.nspname::text AS schema, c.relname::text AS name, m.amname::text AS method,
  i.indisvalid AS is_valid, i.indpred IS NOT NULL AS is_partial,
  ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
    FROM pg_catalog.generate_series(1, i.indnkeyatts::int) k ORDER BY k) AS keys,
  ARRAY(SELECT o.opcname::text FROM pg_catalog.unnest(i.indclass::oid[]) WITH ORDINALITY u (class, place)
    JOIN pg_catalog.pg_opclass o ON o.oid = u.class ORDER BY u.place) AS classes
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY (%(oids)s::oid[]);

-- name: statistics
SELECT s.stxrelid::int8 AS table_oid, s.stxname::text AS name,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(s.stxkeys::int2[]) k (place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = s.stxrelid AND a.attnum = k.place) AS columns,
  COALESCE(pg_catalog.pg_get_statisticsobjdef_expressions(s.oid), '{}') AS expressions
FROM pg_catalog.pg_statistic_ext s
WHERE s.stxrelid = ANY (%(oids)s::oid[]);

-- name: partitioned
-- Without a lock on any of them. What is being detached is no longer read.
WITH RECURSIVE tree AS (
  SELECT r.root, r.root AS oid FROM pg_catalog.unnest(%(oids)s::oid[]) r (root)
  UNION ALL
  SELECT t.root, i.inhrelid FROM tree t
  JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending
)
SELECT t.root::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
  (SELECT pg_catalog.array_agg(l.nspname::text) FROM tree x JOIN pg_catalog.pg_class y ON y.oid = x.oid
    JOIN pg_catalog.pg_namespace l ON l.oid = y.relnamespace WHERE x.root = t.root AND y.relkind <> 'p') AS leaf_schemas,
  (SELECT pg_catalog.array_agg(y.relname::text) FROM tree x JOIN pg_catalog.pg_class y ON y.oid = x.oid
    JOIN pg_catalog.pg_namespace l ON l.oid = y.relnamespace WHERE x.root = t.root AND y.relkind <> 'p') AS leaf_names,
  ARRAY(SELECT DISTINCT a.attname::text FROM tree x JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = x.oid
    CROSS JOIN LATERAL pg_catalog.unnest(p.partattrs::int2[]) k (place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.place WHERE x.root = t.root) AS key_columns,
  (SELECT pg_catalog.bool_or(p.partexprs IS NOT NULL) FROM tree x
    JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = x.oid WHERE x.root = t.root) AS has_expression
FROM (SELECT DISTINCT tree.root FROM tree) t
JOIN pg_catalog.pg_class c ON c.oid = t.root
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;

-- name: casts
-- Casts by which a condition hides a column: where they only say another name of the type, and where always alike.
SELECT w.source, w.target,
  COALESCE(c.castmethod = 'b', pg_catalog.to_regtype(w.source) = pg_catalog.to_regtype(w.target), false) AS is_relabel,
  COALESCE(c.castmethod = 'b' OR p.provolatile = 'i', false) AS is_immutable
FROM ROWS FROM (pg_catalog.unnest(%(sources)s::text[]), pg_catalog.unnest(%(targets)s::text[])) w (source, target)
LEFT JOIN pg_catalog.pg_cast c ON c.castsource = pg_catalog.to_regtype(w.source)
  AND c.casttarget = pg_catalog.to_regtype(w.target)
LEFT JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc;

-- name: functions
-- By name: all that have it must be immutable.
SELECT p.proname::text AS name, pg_catalog.bool_and(p.provolatile = 'i') AS is_immutable
FROM pg_catalog.pg_proc p
WHERE p.proname = ANY (%(names)s::text[])
GROUP BY p.proname;

-- name: foreign_keys
SELECT k.conname::text AS name, n.nspname::text AS schema, c.relname::text AS table_name, c.relpages AS pages,
  c.relkind = 'p' AS is_partitioned,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u (place, at)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.place ORDER BY u.at) AS columns,
  EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
    AND (i.indkey::int2[])[0:pg_catalog.cardinality(k.conkey) - 1] @> k.conkey) AS is_indexed
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conname = ANY (%(names)s::text[]);
