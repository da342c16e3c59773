-- Integer keys and the sequences that feed them. No sequence is read: SELECT, pg_sequence_last_value() and with it
-- pg_sequences.last_value lock it until the transaction ends. How far they are is told by the statistics of the columns.

-- name: columns
-- Columns that a sequence feeds (it is owned by them, or in their default) and other columns of two or four bytes that
-- are in a unique key or point to a wider one; only what can run out in a lifetime. `sequence` without a `name` feeds no
-- column. Partitions are part of their root.
WITH types (oid, type, least, most) AS (
  VALUES (21::oid, 'smallint', -32768::int8, 32767::int8), (23::oid, 'integer', -2147483648, 2147483647),
    (20::oid, 'bigint', -9223372036854775808, 9223372036854775807)
), feeds AS (
  SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid::int2 AS attnum
  FROM pg_catalog.pg_depend d
  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid
    AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  UNION
  SELECT d.refobjid, e.adrelid, e.adnum
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef e ON e.oid = d.objid
  WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
), sequences AS (
  SELECT s.seqrelid AS oid, f.relation, f.attnum, t.type, s.seqmin AS least, s.seqmax AS most,
    s.seqincrement AS increment
  FROM pg_catalog.pg_sequence s JOIN types t ON t.oid = s.seqtypid LEFT JOIN feeds f ON f.sequence = s.seqrelid
  WHERE NOT s.seqcycle
), keys AS (
  SELECT i.indrelid AS relation, k.attnum
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) k (attnum)
  WHERE i.indisunique AND i.indrelid >= 16384 AND t.relkind IN ('r', 'p') AND NOT t.relispartition AND k.attnum > 0
  UNION
  SELECT c.conrelid, k.attnum
  FROM pg_catalog.pg_constraint c, ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey)) k (attnum, refnum)
  JOIN pg_catalog.pg_attribute a ON true JOIN pg_catalog.pg_attribute r ON true
  WHERE c.contype = 'f' AND a.attrelid = c.conrelid AND a.attnum = k.attnum AND r.attrelid = c.confrelid
    AND r.attnum = k.refnum AND a.attlen < r.attlen
), fed AS (
  SELECT k.relation, k.attnum, s.oid, s.type, s.least, s.most, s.increment
  FROM keys k LEFT JOIN sequences s USING (relation, attnum)
  UNION
  SELECT s.relation, s.attnum, s.oid, s.type, s.least, s.most, s.increment FROM sequences s
)
SELECT c.oid::int8 AS oid, a.attnum::int4 AS attnum, c.oid::pg_catalog.regclass::text AS name,
  pg_catalog.quote_ident(a.attname) AS "column", t.type, t.least, t.most,
  f.oid::pg_catalog.regclass::text AS sequence, f.type AS sequence_type, f.least AS sequence_least,
  f.most AS sequence_most, f.increment, c.reltuples::float8 AS rows, c.relpages AS pages, c.relkind = 'p' AS is_partitioned,
  NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
    OR c.relrowsecurity AND pg_catalog.row_security_active(c.oid) AS is_hidden,
  CASE WHEN c.reltuples < 0 THEN pg_catalog.pg_stat_get_tuples_inserted(c.oid) END AS inserted_rows
FROM fed f
LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.attnum
LEFT JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
LEFT JOIN types t ON t.oid = COALESCE(NULLIF(d.typbasetype, 0), d.oid)
WHERE NOT COALESCE(c.relispartition, false) AND (c.oid IS NULL OR c.relkind IN ('r', 'p') AND t.oid IS NOT NULL)
  AND CASE WHEN f.increment < 0 THEN GREATEST(f.least, t.least) > -(2::int8 ^ 53)
    ELSE LEAST(f.most, t.most) < 2::int8 ^ 53 END;

-- name: values
-- The least and the most of integer columns, as of the last ANALYZE, where they are past a tenth of two or four bytes or
-- a sequence of less feeds them; nothing of columns that the login may not SELECT. Those of partitions count for their
-- root.
WITH bounded AS (
  SELECT d.refobjid AS relation, d.refobjsubid AS attnum
  FROM pg_catalog.pg_sequence q
  JOIN pg_catalog.pg_depend d ON d.objid = q.seqrelid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.refclassid = d.classid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  WHERE CASE WHEN q.seqincrement < 0 THEN q.seqmin > -2147483648 ELSE q.seqmax < 2147483647 END
  UNION
  SELECT e.adrelid, e.adnum
  FROM pg_catalog.pg_sequence q
  JOIN pg_catalog.pg_depend d ON d.refobjid = q.seqrelid AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  JOIN pg_catalog.pg_attrdef e ON e.oid = d.objid
  WHERE CASE WHEN q.seqincrement < 0 THEN q.seqmin > -2147483648 ELSE q.seqmax < 2147483647 END
)
SELECT v.relation::int8 || '.' || v.attnum AS key, pg_catalog.max(v.most) AS most, pg_catalog.min(v.least) AS least
FROM (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS relation, r.attnum,
    GREATEST(
      (h.bounds)[pg_catalog.array_upper(h.bounds, 1)],
      (SELECT pg_catalog.max(m) FROM pg_catalog.unnest(h.common) m)) AS most,
    LEAST((h.bounds)[1], (SELECT pg_catalog.min(m) FROM pg_catalog.unnest(h.common) m)) AS least,
    a.attlen
  FROM pg_catalog.pg_stats s
  JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
  JOIN pg_catalog.pg_type d ON d.oid = a.atttypid AND COALESCE(NULLIF(d.typbasetype, 0), d.oid) IN (20, 21, 23)
  -- The root's columns may stand in another order.
  JOIN pg_catalog.pg_attribute r ON r.attname = a.attname
    AND r.attrelid = CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END
  CROSS JOIN LATERAL (
    SELECT s.histogram_bounds::text::int8[] AS bounds, s.most_common_vals::text::int8[] AS common OFFSET 0) h
  WHERE c.oid >= 16384
) v
GROUP BY v.relation, v.attnum
HAVING GREATEST(pg_catalog.max(v.most), -pg_catalog.min(v.least)) >= CASE WHEN pg_catalog.max(v.attlen) = 2 THEN 3276
  ELSE 214748364 END OR (v.relation, v.attnum) IN (SELECT b.relation, b.attnum FROM bounded b);

-- name: narrower
-- Columns that point to a column of two or four bytes and are no wider.
SELECT c.confrelid::int8 AS target_oid, k.refnum::int4 AS target_attnum, c.conrelid::pg_catalog.regclass::text AS name,
  pg_catalog.quote_ident(a.attname) AS "column", r.relpages AS pages
FROM pg_catalog.pg_constraint c, ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey)) k (attnum, refnum)
JOIN pg_catalog.pg_attribute a ON true JOIN pg_catalog.pg_class r ON true
WHERE c.contype = 'f' AND c.conparentid = 0 AND a.attrelid = c.conrelid AND a.attnum = k.attnum AND a.attlen < 8
  AND r.oid = c.conrelid;
