-- name: read_table
SELECT c.oid::pg_catalog.int8, n.nspname::text, c.relname::text, c.relkind::text,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY') AS may_stage,
  c.reltype::pg_catalog.int8 AS row_type_oid
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%(name)s)

-- name: read_columns
SELECT a.attname::text AS name, a.atttypid::pg_catalog.int8 AS type_oid,
  pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
  a.attnotnull AS is_not_null, (a.attgenerated <> '') AS is_generated
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s::pg_catalog.int8::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: read_types
WITH RECURSIVE wanted AS (
  SELECT t.oid FROM pg_catalog.pg_type t
  WHERE t.oid = ANY (%(oids)s::pg_catalog.int8[]::pg_catalog.oid[])
  UNION
  SELECT next.oid FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid
  CROSS JOIN LATERAL (
    SELECT t.typelem WHERE t.typelem <> 0
    UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid
    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) next(oid)
)
SELECT t.oid::pg_catalog.int8 AS oid, t.typname::text AS name, n.nspname::text AS schema,
  CASE WHEN t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
    THEN 'a' ELSE t.typtype::text END AS kind,
  t.typelem::pg_catalog.int8 AS element_oid, t.typbasetype::pg_catalog.int8 AS base_oid,
  COALESCE((SELECT r.rngsubtype::pg_catalog.int8 FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid),
    (SELECT r.rngtypid::pg_catalog.int8 FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid), 0) AS part_oid,
  COALESCE((SELECT pg_catalog.array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
    FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '{}') AS labels,
  COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '{}') AS field_names,
  COALESCE((SELECT pg_catalog.array_agg(a.atttypid::pg_catalog.int8 ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '{}') AS field_oids
FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace

-- name: read_unique_keys
-- until: 150000
SELECT c.relname::text AS name, i.indimmediate AS is_immediate, i.indisvalid AS is_valid,
  (i.indpred IS NOT NULL) AS is_partial, false AS nulls_are_equal,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(attnum, place)
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
    WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s::pg_catalog.int8::pg_catalog.oid AND i.indisunique

-- name: read_unique_keys
-- since: 150000
SELECT c.relname::text AS name, i.indimmediate AS is_immediate, i.indisvalid AS is_valid,
  (i.indpred IS NOT NULL) AS is_partial, i.indnullsnotdistinct AS nulls_are_equal,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(attnum, place)
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
    WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s::pg_catalog.int8::pg_catalog.oid AND i.indisunique
