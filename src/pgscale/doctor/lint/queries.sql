-- What a scratch database and the locks in it look like. The session that runs the migration asks for the catalog,
-- because only it sees what is not committed; another one reads its locks.

-- name: read_locks
-- Relations of the catalog have numbers below 16384.
SELECT l.relation::int8 AS relation, l.mode, l.granted
FROM pg_catalog.pg_locks l
WHERE l.pid = %(pid)s AND l.locktype = 'relation' AND l.relation >= 16384
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());

-- name: read_scans
SELECT COALESCE(i.indrelid, c.oid)::int8 AS relation, i.indrelid IS NOT NULL AS by_index,
  SUM(pg_catalog.pg_stat_get_xact_numscans(c.oid))::int8 AS scans
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE c.relkind IN ('r', 'm', 'i') AND c.oid >= 16384 AND pg_catalog.pg_stat_get_xact_numscans(c.oid) > 0
GROUP BY 1, 2;

-- name: read_relations
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  c.relfilenode::int8 AS filenode, c.reltablespace::int8 AS tablespace, c.relispartition AS is_partition,
  COALESCE(i.indrelid, 0)::int8 AS table, COALESCE(i.indisunique, false) AS is_unique,
  EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x'))
    AS is_constraint,
  CASE WHEN i.indexrelid IS NULL THEN '' ELSE pg_catalog.pg_get_indexdef(c.oid) END AS definition,
  CASE WHEN c.relispartition AND c.relkind IN ('r', 'p', 'f')
    THEN COALESCE(pg_catalog.pg_get_partition_constraintdef(c.oid), '') ELSE '' END AS bound,
  ARRAY(SELECT h.inhparent::int8 FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) AS parents,
  ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
    AS triggers,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
        || COALESCE(' COLLATE ' || NULLIF(a.attcollation, y.typcollation)::regcollation::text, ''), a.attnotnull,
      CASE WHEN a.attgenerated = '' THEN COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END,
      a.attidentity <> '', a.attgenerated <> '') ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relkind IN ('r', 'p', 'm', 'f', 'v')) AS columns,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
      k.oid::int8, k.conname, k.contype, k.convalidated, pg_catalog.pg_get_constraintdef(k.oid),
      k.coninhcount > 0 OR k.conparentid <> 0, k.conindid::int8, k.confrelid::int8) ORDER BY k.oid)
    FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid) AS constraints
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE c.oid >= 16384 AND n.nspname NOT IN ('pg_toast', 'information_schema', 'pg_catalog')
  AND (%(all)s OR c.oid = ANY (%(oids)s::oid[]));

-- name: read_resolved
SELECT pg_catalog.to_regclass(w)::oid::int8 AS oid
FROM pg_catalog.unnest(%(names)s::text[]) w
WHERE pg_catalog.to_regclass(w) IS NOT NULL;

-- name: read_lock_timeout
SELECT s.setting::int4 AS ms FROM pg_catalog.pg_settings s WHERE s.name = 'lock_timeout';

-- name: read_login
SELECT r.rolsuper, pg_catalog.current_setting('server_version_num')::int4 AS version,
  pg_catalog.current_setting('track_counts')::bool AS counts
FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER;
