-- What lint reads of the real database. Sizes are relpages: pg_relation_size() and its like lock the table.

-- name: read_database
-- reset_val of lock_timeout is what the login gets without SET.
SELECT pg_catalog.current_database()::text AS database,
  (SELECT s.reset_val::int4 FROM pg_catalog.pg_settings s WHERE s.name = 'lock_timeout') AS lock_timeout_ms,
  (SELECT EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - MIN(a.xact_start))::float8
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
      AND a.backend_type = 'client backend') AS oldest_s;

-- name: read_extension_functions
-- What defaults and checks of tables may call: plain functions with one result.
SELECT n.nspname::text AS schema, p.proname::text AS name,
  pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments, pg_catalog.format_type(p.prorettype, NULL) AS result,
  CASE p.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END AS volatility
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_proc p ON p.oid = d.objid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_type t ON t.oid = p.prorettype
WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
  AND p.prokind = 'f' AND NOT p.proretset AND t.typtype <> 'p' AND n.nspname <> 'pg_catalog';

-- name: read_tables
-- A partitioned table is the sum of its partitions.
WITH RECURSIVE given AS (
  SELECT c.oid AS root, n.nspname::text AS schema, c.relname::text AS name
  FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])) AS g (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = g.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = g.name AND c.relkind IN ('r', 'p', 'm')
), tree AS (
  SELECT g.root, g.root AS oid FROM given g
  UNION
  SELECT t.root, h.inhrelid FROM tree t JOIN pg_catalog.pg_inherits h ON h.inhparent = t.oid
), sized AS (
  SELECT t.root, c.relkind, c.reltuples, c.relpages::int8 + COALESCE(x.relpages, 0) AS pages,
    COALESCE((SELECT SUM(ic.relpages) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
      WHERE i.indrelid = c.oid), 0)::int8 AS index_pages
  FROM tree t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid
  LEFT JOIN pg_catalog.pg_class x ON x.oid = c.reltoastrelid
)
SELECT g.schema, g.name,
  (SUM(s.pages) * pg_catalog.current_setting('block_size')::int8)::int8 AS table_bytes,
  (SUM(s.index_pages) * pg_catalog.current_setting('block_size')::int8)::int8 AS index_bytes,
  CASE WHEN COALESCE(pg_catalog.bool_or(s.reltuples < 0) FILTER (WHERE s.relkind <> 'p'), false) THEN NULL
    ELSE COALESCE(SUM(s.reltuples) FILTER (WHERE s.relkind <> 'p'), 0)::int8 END AS rows
FROM given g JOIN sized s ON s.root = g.root
GROUP BY g.root, g.schema, g.name;

-- name: read_holders
-- Whoever may not see a session's transaction start is not counted as short: NULL is left out, and so said in the docs.
SELECT n.nspname::text AS schema, c.relname::text AS name, l.pid, l.mode,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - COALESCE(a.xact_start, p.prepared))::float8 AS age_s,
  CASE WHEN p.gid IS NULL THEN COALESCE(a.state, '') ELSE 'prepared transaction ' || p.gid END AS state
FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])) AS g (schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = g.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = g.name
JOIN pg_catalog.pg_locks l ON l.locktype = 'relation' AND l.relation = c.oid AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND '-1/' || p.transaction::text = l.virtualtransaction
WHERE l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - COALESCE(a.xact_start, p.prepared)) >= %(least_s)s
ORDER BY age_s DESC;
