-- Tables that are large enough to partition, and what is wrong with partitions. Sizes are of the last VACUUM or ANALYZE.

-- name: large
-- With indexes and TOAST; those of extensions and temporary ones are left out. 16384 is the first OID that initdb does
-- not give. A column of time that may not be NULL makes the better key.
WITH large AS MATERIALIZED (
  SELECT c.oid, c.relname, c.relnamespace, c.relpages, c.reltuples, c.reltoastrelid
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid >= 16384 AND c.relpages > 0
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend e
      WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
  ORDER BY c.relpages DESC, c.oid
  LIMIT 100
)
SELECT ns.nspname::text AS schema, l.relname::text AS name, l.relpages::int8 AS pages,
  (l.relpages + COALESCE(x.pages, 0) + COALESCE(t.pages, 0))::int8 AS all_pages, l.reltuples::float8 AS table_rows,
  pg_catalog.pg_stat_get_tuples_inserted(l.oid) AS inserted_rows,
  pg_catalog.pg_stat_get_tuples_updated(l.oid) AS updated_rows,
  pg_catalog.pg_stat_get_tuples_deleted(l.oid) AS deleted_rows,
  pg_catalog.pg_stat_get_dead_tuples(l.oid) AS dead_rows, COALESCE(k.columns, '{}') AS time_columns
FROM large l
JOIN pg_catalog.pg_namespace ns ON ns.oid = l.relnamespace
LEFT JOIN LATERAL (
  SELECT pg_catalog.sum(c.relpages) AS pages
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  WHERE i.indrelid = l.oid
) x ON true
LEFT JOIN LATERAL (
  -- Not by OR, which would read all of pg_class for each table.
  SELECT pg_catalog.sum(each.relpages) AS pages
  FROM (
    SELECT c.relpages FROM pg_catalog.pg_class c WHERE c.oid = l.reltoastrelid
    UNION ALL
    SELECT c.relpages FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = l.reltoastrelid
  ) each
) t ON l.reltoastrelid <> 0
LEFT JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnotnull DESC, a.attnum) AS columns
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.atttypid IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype)
) k ON true
ORDER BY all_pages DESC, l.oid;

-- name: defaults
-- DEFAULT partitions that hold rows. Without counts of the rows, lost in a crash or a reset, those of VACUUM stand.
SELECT ns.nspname::text AS table_schema, t.relname::text AS table_name, dn.nspname::text AS schema,
  c.relname::text AS name, p.partstrat::text AS strategy,
  p.partnatts = 1 AND (p.partattrs::int2[])[0] <> 0 AS is_one_column, r.held_rows, c.relpages::int8 AS pages,
  (SELECT pg_catalog.count(*)::int8 FROM pg_catalog.pg_inherits h WHERE h.inhparent = t.oid) AS partitions
FROM pg_catalog.pg_partitioned_table p
JOIN pg_catalog.pg_class t ON t.oid = p.partrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = t.relnamespace
JOIN pg_catalog.pg_class c ON c.oid = p.partdefid
JOIN pg_catalog.pg_namespace dn ON dn.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT CASE WHEN pg_catalog.pg_stat_get_live_tuples(c.oid) > 0 THEN pg_catalog.pg_stat_get_live_tuples(c.oid)
    WHEN pg_catalog.pg_stat_get_tuples_deleted(c.oid) = 0 AND c.reltuples > 0 THEN c.reltuples::int8
    ELSE 0 END AS held_rows
) r
WHERE c.relkind = 'r' AND r.held_rows > 0
ORDER BY r.held_rows DESC, c.oid;

-- name: detaching
-- While DETACH CONCURRENTLY waits for those who still read the table it holds no lock: only its statement tells.
SELECT tn.nspname::text AS table_schema, t.relname::text AS table_name, ns.nspname::text AS schema,
  c.relname::text AS name, EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database() AND a.state = 'active'
      AND a.query ~* 'detach\s+partition' AND a.pid <> pg_catalog.pg_backend_pid()) AS is_in_work
FROM pg_catalog.pg_inherits h
JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = h.inhparent
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE h.inhdetachpending
ORDER BY ns.nspname, c.relname;
