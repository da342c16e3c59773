-- What statements read, to tell which indexes they want: the largest tables, their columns and their indexes. Of
-- partitioned tables the whole is one; sizes and rows are of the last VACUUM or ANALYZE.

-- name: tables
WITH parts AS MATERIALIZED (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS oid,
    pg_catalog.sum(c.relpages)::int8 AS pages, pg_catalog.sum(GREATEST(c.reltuples, 0))::float8 AS tuples,
    pg_catalog.sum(c.relallvisible)::int8 AS visible
  FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
  GROUP BY 1
  ORDER BY 2 DESC, 1
  LIMIT 100
)
SELECT p.oid::int8 AS oid, ns.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS is_partitioned,
  p.pages, p.tuples AS rows, p.visible AS visible_pages, w.entries AS written_rows, w.scans AS sequential_scans,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - COALESCE(
    pg_catalog.pg_stat_get_db_stat_reset_time(d.oid), pg_catalog.pg_postmaster_start_time()))::float8 AS counted_s,
  ARRAY(
    SELECT s.nspname::text FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace s ON s.oid = o.relnamespace
    WHERE o.relname = c.relname AND o.oid <> c.oid AND o.relkind IN ('r', 'p', 'm', 'v', 'f')) AS namesakes
FROM parts p
JOIN pg_catalog.pg_class c ON c.oid = p.oid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
CROSS JOIN LATERAL (
  SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(m.oid) + pg_catalog.pg_stat_get_tuples_updated(m.oid)
      - pg_catalog.pg_stat_get_tuples_hot_updated(m.oid)), 0)::int8 AS entries,
    COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_numscans(m.oid)), 0)::int8 AS scans
  FROM (
    SELECT p.oid
    UNION
    SELECT t.inhrelid FROM pg_catalog.pg_inherits t WHERE c.relkind = 'p' AND t.inhparent = p.oid
  ) m
) w
ORDER BY p.pages DESC, p.oid;

-- name: columns
-- Looked up column by column: joined as a whole pg_stats is read for every table there is.
WITH large AS MATERIALIZED (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS oid,
    pg_catalog.sum(c.relpages)::int8 AS pages
  FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
  GROUP BY 1
  ORDER BY 2 DESC, 1
  LIMIT 100
)
SELECT l.oid::int8 AS table_oid, a.attnum::int4 AS number, a.attname::text AS name,
  CASE WHEN a.attlen > 0 THEN a.attlen ELSE COALESCE(s.avg_width, 32) END::int4 AS width_bytes,
  a.attnotnull AS is_not_null, COALESCE(NULLIF(y.typbasetype, 0), y.oid) IN (
    SELECT o.opcintype FROM pg_catalog.pg_opclass o WHERE o.opcmethod = 403 AND o.opcdefault)
    OR y.typtype IN ('e', 'r') OR a.atttypid = 'pg_catalog.varchar'::regtype AS is_sortable,
  y.oid < 16384 OR y.typtype = 'e' AS is_builtin,
  pg_catalog.has_column_privilege(l.oid, a.attnum, 'SELECT') AND NOT pg_catalog.row_security_active(l.oid) AS is_visible,
  s.n_distinct::float8 AS distinct_values, s.null_frac::float8 AS null_share,
  CASE WHEN s.n_distinct BETWEEN 1 AND 20 THEN s.most_common_vals::text::text[] END AS common_values,
  s.most_common_freqs::float8[] AS common_shares
FROM large l
JOIN pg_catalog.pg_class c ON c.oid = l.oid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
LEFT JOIN LATERAL (
  SELECT v.n_distinct, v.null_frac, v.avg_width, v.most_common_vals, v.most_common_freqs FROM pg_catalog.pg_stats v
  WHERE v.schemaname = ns.nspname AND v.tablename = c.relname AND v.attname = a.attname
    AND v.inherited = (c.relkind = 'p')
  OFFSET 0
) s ON true
ORDER BY l.pages DESC, l.oid, a.attnum;

-- name: indexes
-- Valid ones. What a predicate says is known only where it is a single test: that a column is (not) NULL, or a boolean.
WITH large AS MATERIALIZED (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS oid,
    pg_catalog.sum(c.relpages)::int8 AS pages
  FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
  GROUP BY 1
  ORDER BY 2 DESC, 1
  LIMIT 100
), parts AS MATERIALIZED (
  SELECT pg_catalog.pg_partition_root(x.oid)::oid AS oid, pg_catalog.sum(x.relpages)::int8 AS pages
  FROM pg_catalog.pg_class x
  WHERE x.relkind = 'i' AND x.relispartition
  GROUP BY 1
)
SELECT i.indrelid::int8 AS table_oid, i.indexrelid::int8 AS oid, xn.nspname::text AS schema, x.relname::text AS name,
  m.amname::text AS method, i.indisunique AS is_unique, k.keys, k.options, k.is_default, k.included,
  i.indpred IS NOT NULL AS is_partial, (
    SELECT a.attname::text FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = i.indrelid AND a.attnum = q.found[1]::int2) AS tested_column,
  CASE WHEN q.found IS NOT NULL THEN
    CASE WHEN i.indpred::text LIKE '{NULLTEST%' OR i.indpred::text LIKE '({NULLTEST%'
        THEN CASE q.found[2] WHEN '0' THEN 'null' ELSE 'not null' END
      WHEN i.indpred::text LIKE '%{BOOLEXPR :boolop not%' THEN 'false' ELSE 'true' END END AS test,
  COALESCE((SELECT p.pages FROM parts p WHERE p.oid = i.indexrelid), x.relpages)::int8 AS pages,
  EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.conindid = i.indexrelid AND f.contype IN ('p', 'u', 'x'))
    OR i.indisreplident AS is_constraint
FROM large l
JOIN pg_catalog.pg_index i ON i.indrelid = l.oid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_namespace xn ON xn.oid = x.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = x.relam
CROSS JOIN LATERAL (
  SELECT pg_catalog.regexp_match(i.indpred::text,
    '^\(?(?:\{NULLTEST :arg |\{BOOLEXPR :boolop not :args \()?\{VAR [^{}]*:varattno (\d+) [^{}]*\}(?: :nulltesttype (\d)[^{}]*\}|\)[^{}]*\})?\)?$'
  ) AS found
) q
CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY o.place) FILTER (WHERE o.place <= i.indnkeyatts) AS keys,
    pg_catalog.array_agg((i.indoption::int2[])[o.place - 1]::int4 ORDER BY o.place)
      FILTER (WHERE o.place <= i.indnkeyatts) AS options,
    pg_catalog.bool_and(p.opcdefault AND (a.attnum IS NULL OR (i.indcollation::oid[])[o.place - 1] = a.attcollation))
      FILTER (WHERE o.place <= i.indnkeyatts) AS is_default,
    COALESCE(pg_catalog.array_agg(a.attname::text ORDER BY o.place) FILTER (WHERE o.place > i.indnkeyatts), '{}')
      AS included
  FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS o (attnum, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = o.attnum AND o.attnum <> 0
  LEFT JOIN pg_catalog.pg_opclass p ON o.place <= i.indnkeyatts AND p.oid = (i.indclass::oid[])[o.place - 1]
) k
WHERE i.indisvalid AND i.indisready AND i.indislive
ORDER BY i.indrelid, i.indexrelid;
