-- What the rows of tables and btree indexes would take, to be compared with what they have: the widths that ANALYZE saw.

-- name: columns
-- A row a column of the largest tables (r, m) and valid btree indexes (i). `width` is NULL where ANALYZE saw none; an
-- index has those of its table, of expressions its own. Dropped columns of tables are NULL in new rows. System catalogs
-- and temporary tables are left out.
WITH largest AS MATERIALIZED (
  SELECT c.oid, c.relname, c.relnamespace, c.relkind, c.reltuples, c.relpages, c.reloptions, i.indrelid, i.indkey::int2[] AS keys
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
  LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
  WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND c.relpages > 1
    AND (c.relkind IN ('r', 'm') AND m.amname = 'heap'
      OR c.relkind = 'i' AND m.amname = 'btree' AND i.indisvalid AND NOT i.indisexclusion
        AND i.indrelid >= 16384 AND (
          SELECT t.relkind IN ('r', 'm') FROM pg_catalog.pg_class t WHERE t.oid = i.indrelid))
  ORDER BY c.relpages DESC LIMIT 500
)
SELECT l.oid::int8 AS oid, l.oid::pg_catalog.regclass::text AS name, l.indrelid::pg_catalog.regclass::text AS "table",
  l.relkind = 'i' AS is_index, l.reltuples::float8 AS rows, l.relpages AS pages,
  COALESCE((SELECT x.option_value FROM pg_catalog.pg_options_to_table(l.reloptions) x WHERE x.option_name = 'fillfactor')::int4,
    CASE WHEN l.relkind = 'i' THEN 90 ELSE 100 END) AS fillfactor,
  a.attlen::int4 AS length, a.attalign::text AS align, CASE WHEN a.attisdropped THEN 0 ELSE s.avg_width END AS width,
  CASE WHEN a.attisdropped THEN 1 ELSE COALESCE(s.null_frac, 0) END::float8 AS null_share,
  NOT a.attisdropped AND (
    NOT pg_catalog.has_column_privilege(o.oid, b.attnum, 'SELECT') OR pg_catalog.row_security_active(o.oid)) AS is_hidden
FROM largest l
JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0
CROSS JOIN LATERAL (
  SELECT COALESCE(l.indrelid, l.oid) AS oid,
    CASE WHEN l.relkind = 'i' THEN l.keys[a.attnum - 1] ELSE a.attnum END AS attnum) w
JOIN pg_catalog.pg_class o ON o.oid = CASE WHEN w.attnum > 0 THEN w.oid ELSE l.oid END
JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace
LEFT JOIN pg_catalog.pg_attribute b ON b.attrelid = o.oid AND b.attnum = CASE WHEN w.attnum > 0 THEN w.attnum ELSE a.attnum END
-- Looked up column by column: joined as a whole the view is read for every table there is.
LEFT JOIN LATERAL (
  SELECT v.avg_width, v.null_frac FROM pg_catalog.pg_stats v
  WHERE v.schemaname = n.nspname AND v.tablename = o.relname AND v.attname = b.attname AND NOT v.inherited
  OFFSET 0) s ON true
ORDER BY l.relpages DESC, l.oid, a.attnum;
