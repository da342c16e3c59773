-- What lies outside the rows of tables: in which columns, how it is compressed, how much of it is read.

-- name: columns
-- Columns whose values may lie there, of the 100 tables that have most. The widths of pg_stats count a value outside as
-- the pointer to it. Types that are stored inside while that is possible (numeric, inet) are left out, and so are short
-- declared lengths.
WITH largest AS MATERIALIZED (
  SELECT c.oid, c.relname, c.relnamespace, c.relkind, c.reltuples, t.relpages, t.reltuples AS chunks
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND t.relpages > 0
  ORDER BY t.relpages DESC, c.oid LIMIT 100
)
SELECT l.oid::int8 AS oid, n.nspname::text AS schema, l.relname::text AS table_name, l.relkind = 'm' AS is_materialized,
  l.reltuples::float8 AS rows, l.relpages AS toast_pages, GREATEST(l.chunks, 0)::float8 AS chunks,
  a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name, b.typname::text AS base,
  b.typcategory::text AS category, a.attstorage::text AS storage, a.attcompression::text AS compression,
  s.avg_width AS width, s.null_frac::float8 AS null_share,
  pg_catalog.has_column_privilege(l.oid, a.attnum, 'SELECT') AND NOT pg_catalog.row_security_active(l.oid) AS may_select,
  COALESCE(k.columns, '{}') AS key
FROM largest l
JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attlen = -1
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = COALESCE(NULLIF(y.typbasetype, 0), y.oid)
-- Looked up column by column: joined as a whole the view is read for every table there is.
LEFT JOIN LATERAL (
  SELECT v.avg_width, v.null_frac FROM pg_catalog.pg_stats v
  WHERE v.schemaname = n.nspname AND v.tablename = l.relname AND v.attname = a.attname AND NOT v.inherited
  OFFSET 0) s ON true
LEFT JOIN LATERAL (
  SELECT pg_catalog.array_agg(p.attname::text ORDER BY o.place) AS columns
  FROM pg_catalog.pg_index i
  CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS o (attnum, place)
  JOIN pg_catalog.pg_attribute p ON p.attrelid = l.oid AND p.attnum = o.attnum
  WHERE i.indrelid = l.oid AND i.indisprimary AND o.place <= i.indnkeyatts) k ON true
WHERE (a.attstorage IN ('x', 'e') OR a.attstorage = 'm' AND y.typstorage = 'x')
  AND NOT (b.typname IN ('varchar', 'bpchar') AND a.atttypmod BETWEEN 0 AND 504)
ORDER BY l.relpages DESC, l.oid, s.avg_width DESC NULLS FIRST, a.attnum;

-- name: methods
SELECT 'lz4' = ANY (s.enumvals) AS has_lz4 FROM pg_catalog.pg_settings s WHERE s.name = 'default_toast_compression';

-- name: reads
-- Pages asked for of the tables that have most read of outside their rows, inside the rows and outside.
SELECT c.oid::int8 || ' ' || c.oid::pg_catalog.regclass::text AS key, b.fetched, b.hits,
  pg_catalog.pg_stat_get_blocks_fetched(c.oid) AS row_fetched, d.stats_reset AS reset_at
FROM pg_catalog.pg_class c
CROSS JOIN LATERAL (
  SELECT pg_catalog.pg_stat_get_blocks_fetched(c.reltoastrelid) AS fetched,
    pg_catalog.pg_stat_get_blocks_hit(c.reltoastrelid) AS hits) b
JOIN pg_catalog.pg_stat_database d ON d.datname = pg_catalog.current_database()
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') AND c.reltoastrelid <> 0 AND b.fetched > 0
ORDER BY b.fetched DESC LIMIT 100;
