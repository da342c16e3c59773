-- Indexes: which nobody uses, which say the same twice, which are broken, and which are missing. Definitions cannot be
-- shown: pg_get_indexdef locks the table. Partitions of indexes are counted to their root; the system's own, temporary
-- ones and those of extensions are left out. 16384 is the first OID that initdb does not give.

-- name: counting
-- Whole statistics are lost in a crash; from 15 on that shows in what is reset for the server alone.
SELECT EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - GREATEST(
    pg_catalog.pg_stat_get_db_stat_reset_time(d.oid), LEAST(b.stats_reset, a.stats_reset, w.stats_reset)))::float8
    AS counted_s,
  (SELECT pg_catalog.count(*)::int4 FROM pg_catalog.pg_stat_replication r WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) AS standbys
FROM pg_catalog.pg_database d, pg_catalog.pg_stat_bgwriter b, pg_catalog.pg_stat_archiver a, pg_catalog.pg_stat_wal w
WHERE d.datname = pg_catalog.current_database();

-- name: unused
-- Spared is what is unique, as replica identities are, holds a constraint, or serves a foreign key.
WITH used AS MATERIALIZED (
  SELECT c.oid, pg_catalog.pg_stat_get_numscans(c.oid) AS scans,
    pg_catalog.pg_stat_get_lastscan(c.oid) AS last_used_at, -- since: 160000
    NULL::timestamptz AS last_used_at, -- until: 160000
    c.relpages::int8 AS pages
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND c.oid >= 16384 AND NOT c.relispartition
  UNION ALL
  SELECT pg_catalog.pg_partition_root(c.oid)::oid, pg_catalog.sum(pg_catalog.pg_stat_get_numscans(c.oid))::int8,
    pg_catalog.max(pg_catalog.pg_stat_get_lastscan(c.oid)), -- since: 160000
    NULL::timestamptz, -- until: 160000
    pg_catalog.sum(c.relpages)::int8
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND c.relispartition
  GROUP BY 1
), may_go AS MATERIALIZED (
  SELECT i.indexrelid, i.indrelid, i.indkey, i.indpred IS NOT NULL AS is_partial, u.scans, u.last_used_at, u.pages
  FROM used u
  JOIN pg_catalog.pg_index i ON i.indexrelid = u.oid
  WHERE i.indisvalid AND NOT i.indisunique AND NOT i.indisexclusion
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_constraint f
      WHERE f.conrelid = i.indrelid AND f.contype = 'f'
        AND (i.indkey::int2[])[0:pg_catalog.cardinality(f.conkey) - 1] @> f.conkey)
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend e
      WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = i.indrelid AND e.deptype = 'e')
  ORDER BY u.scans = 0 DESC, u.pages DESC, u.oid
  LIMIT 500
)
SELECT m.indexrelid::int8 AS oid, ns.nspname::text AS schema, c.relname::text AS name, m.indrelid::pg_catalog.regclass::text
    AS table_name, c.relkind = 'I' AS is_partitioned, k.columns, m.is_partial, m.scans, m.pages,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - m.last_used_at)::float8 AS unused_s,
  pg_catalog.age(c.xmin) AS age_xids,
  (pg_catalog.pg_stat_get_tuples_inserted(m.indrelid) + pg_catalog.pg_stat_get_tuples_updated(m.indrelid)
    - pg_catalog.pg_stat_get_tuples_hot_updated(m.indrelid))::int8 AS written_rows
FROM may_go m
JOIN pg_catalog.pg_class c ON c.oid = m.indexrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT pg_catalog.string_agg(COALESCE(a.attname::text, '(expression)'), ', ' ORDER BY o.place) AS columns
  FROM pg_catalog.unnest(m.indkey::int2[]) WITH ORDINALITY AS o (attnum, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = m.indrelid AND a.attnum = o.attnum AND o.attnum <> 0
) k
ORDER BY m.pages DESC, c.oid;

-- name: scans
-- Of a standby, by index of the primary: those that were used there at all; partitions are counted to their root.
SELECT x.oid::int8 AS oid, pg_catalog.sum(x.scans)::int8 AS scans,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.max(x.last_used_at))::float8 AS unused_s
FROM (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS oid,
    pg_catalog.pg_stat_get_lastscan(c.oid) AS last_used_at, -- since: 160000
    NULL::timestamptz AS last_used_at, -- until: 160000
    pg_catalog.pg_stat_get_numscans(c.oid) AS scans
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'i' AND c.oid >= 16384
) x
WHERE x.scans > 0
GROUP BY x.oid;

-- name: redundant
-- Pairs of which `less` answers nothing that `more` does not: the same predicate, operator classes (and so access
-- method), collations and order, its keys the same or (B-tree) their beginning, its INCLUDEd columns in `more`. What is
-- unique gives way to nothing but what is unique in the same way. Node trees differ in the places of their source text.
WITH sizes AS MATERIALIZED (
  SELECT pg_catalog.pg_partition_root(c.oid)::oid AS oid, pg_catalog.sum(c.relpages)::int8 AS pages,
    pg_catalog.sum(pg_catalog.pg_stat_get_numscans(c.oid))::int8 AS scans
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'i' AND c.relispartition
  GROUP BY 1
), pair AS MATERIALIZED (
  SELECT l.indexrelid AS less, m.indexrelid AS more, l.indrelid, l.indkey::int2[] AS attnums,
    l.indpred IS NOT NULL AS is_partial, l.indnkeyatts = m.indnkeyatts AS is_duplicate,
    l.indisunique AS is_unique, m.indisunique AS more_is_unique, m.indnatts::int4 AS more_columns
  FROM pg_catalog.pg_index l
  JOIN pg_catalog.pg_index m
    ON m.indrelid = l.indrelid AND m.indkey[0] = l.indkey[0] AND m.indclass[0] = l.indclass[0]
    AND m.indexrelid <> l.indexrelid AND m.indnkeyatts >= l.indnkeyatts
  WHERE l.indexrelid >= 16384 AND l.indisvalid AND l.indislive AND m.indisvalid AND m.indislive
    AND NOT l.indisprimary AND NOT l.indisexclusion AND NOT l.indisreplident AND NOT m.indisexclusion
    AND (l.indkey::int2[])[0:l.indnkeyatts - 1] = (m.indkey::int2[])[0:l.indnkeyatts - 1]
    AND (l.indclass::oid[])[0:l.indnkeyatts - 1] = (m.indclass::oid[])[0:l.indnkeyatts - 1]
    AND (l.indcollation::oid[])[0:l.indnkeyatts - 1] = (m.indcollation::oid[])[0:l.indnkeyatts - 1]
    AND (l.indoption::int2[])[0:l.indnkeyatts - 1] = (m.indoption::int2[])[0:l.indnkeyatts - 1]
    AND (l.indkey::int2[])[l.indnkeyatts:] <@ (m.indkey::int2[])
    AND (l.indpred IS NULL) = (m.indpred IS NULL)
    AND (l.indpred IS NULL OR pg_catalog.regexp_replace(l.indpred::text, ':location -?\d+', '', 'g')
      = pg_catalog.regexp_replace(m.indpred::text, ':location -?\d+', '', 'g'))
    AND (l.indexprs IS NULL OR pg_catalog.regexp_replace(l.indexprs::text, ':location -?\d+', '', 'g')
      = pg_catalog.regexp_replace(m.indexprs::text, ':location -?\d+', '', 'g'))
    AND (NOT l.indisunique OR m.indisunique AND l.indnkeyatts = m.indnkeyatts AND m.indimmediate
      AND l.indnullsnotdistinct = m.indnullsnotdistinct -- since: 150000
    )
    AND l.indexrelid NOT IN (SELECT f.conindid FROM pg_catalog.pg_constraint f WHERE f.contype = 'f')
    AND l.indrelid NOT IN (
      SELECT e.objid FROM pg_catalog.pg_depend e
      WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.deptype = 'e')
), largest AS MATERIALIZED (
  SELECT p.*, c.relname, c.relnamespace, c.relkind,
    CASE WHEN c.relkind = 'I' THEN COALESCE((SELECT z.pages FROM sizes z WHERE z.oid = p.less), 0)
      ELSE c.relpages END::int8 AS pages
  FROM pair p
  JOIN pg_catalog.pg_class c ON c.oid = p.less
  WHERE NOT c.relispartition AND c.relpersistence <> 't' AND (p.is_duplicate OR c.relam = 403)
  ORDER BY pages DESC, p.less, p.more
  LIMIT 1000
)
SELECT p.less::int8 AS oid, p.more::int8 AS more_oid, ns.nspname::text AS schema, p.relname::text AS name,
  tn.nspname::text AS table_schema, t.relname::text AS table_name, p.relkind = 'I' AS is_partitioned,
  p.more::pg_catalog.regclass::text AS more, k.columns, p.is_partial, p.is_duplicate, p.is_unique, p.more_is_unique,
  p.more_columns, (
    SELECT f.conname::text FROM pg_catalog.pg_constraint f
    WHERE f.conrelid = p.indrelid AND f.conindid = p.less AND f.contype = 'u') AS constraint_name,
  EXISTS (
    SELECT FROM pg_catalog.pg_constraint f
    WHERE f.conrelid = p.indrelid AND f.conindid = p.more AND f.contype IN ('p', 'u')) AS more_is_constraint,
  CASE WHEN p.relkind = 'I' THEN COALESCE((SELECT z.scans FROM sizes z WHERE z.oid = p.less), 0)
    ELSE pg_catalog.pg_stat_get_numscans(p.less) END AS scans, p.pages
FROM largest p
JOIN pg_catalog.pg_namespace ns ON ns.oid = p.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = p.indrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
CROSS JOIN LATERAL (
  SELECT pg_catalog.string_agg(COALESCE(a.attname::text, '(expression)'), ', ' ORDER BY o.place) AS columns
  FROM pg_catalog.unnest(p.attnums) WITH ORDINALITY AS o (attnum, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.indrelid AND a.attnum = o.attnum AND o.attnum <> 0
) k
ORDER BY p.pages DESC, p.less, p.more;

-- name: invalid
-- Those of TOAST tables, too: REINDEX CONCURRENTLY leaves its own behind there. CREATE, REINDEX and DROP INDEX
-- CONCURRENTLY hold SHARE UPDATE EXCLUSIVE on the table to their end; so does VACUUM, which is no work on an index.
SELECT ns.nspname::text AS schema, c.relname::text AS name, tn.nspname::text AS table_schema,
  t.relname::text AS table_name, t.oid::int8 AS table_oid, c.oid::int8 AS oid, c.relkind = 'I' AS is_partitioned,
  tn.nspname = 'pg_toast' AS is_toast, i.indisunique AS is_unique, i.indisready AS is_written,
  c.relpages::int8 AS pages, k.columns, EXISTS (
    SELECT FROM pg_catalog.pg_constraint o WHERE o.conindid = c.oid AND o.contype IN ('p', 'u', 'x')) AS is_constraint,
  i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts AND c.relam = 403 AND k.is_default
    AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indoption::int2[]) AS o (bits) WHERE o.bits <> 0) AS is_plain,
  EXISTS (
    SELECT FROM pg_catalog.pg_locks k
    WHERE k.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      AND k.relation IN (i.indrelid, c.oid) AND k.granted AND k.locktype = 'relation'
      AND k.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'AccessExclusiveLock')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = k.pid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_analyze v WHERE v.pid = k.pid)) AS is_in_work
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY o.place) AS columns,
    pg_catalog.bool_and(p.opcdefault AND (i.indcollation::oid[])[o.place - 1] = a.attcollation) AS is_default
  FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS o (attnum, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = o.attnum AND o.attnum <> 0
  LEFT JOIN pg_catalog.pg_opclass p ON p.oid = (i.indclass::oid[])[o.place - 1]
) k
WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) AND c.oid >= 16384 AND c.relpersistence <> 't'
ORDER BY ns.nspname, c.relname;

-- name: partitions
-- Of partitioned tables, not of indexes; read only when one of them needs an index.
SELECT h.inhparent::int8 AS parent_oid, c.oid::int8 AS oid, ns.nspname::text AS schema, c.relname::text AS name,
  c.relkind = 'p' AS is_partitioned, COALESCE(x.indexes, '{}') AS attached_to
FROM pg_catalog.pg_inherits h
JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT pg_catalog.array_agg(ih.inhparent::int8) AS indexes
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_inherits ih ON ih.inhrelid = i.indexrelid
  WHERE i.indrelid = c.oid
) x ON true
WHERE c.relispartition AND c.relkind IN ('r', 'p')
ORDER BY h.inhparent, ns.nspname, c.relname;

-- name: foreign_keys
-- Whose columns no index begins with, in any order. A partial index serves when its predicate is that a column of the
-- key is not NULL.
WITH tables AS MATERIALIZED (
  SELECT CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid ELSE c.oid END AS oid,
    pg_catalog.sum(c.relpages)::int8 AS pages, pg_catalog.sum(GREATEST(c.reltuples, 0))::float8 AS tuples,
    pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(c.oid))::int8 AS deleted,
    pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(c.oid))::int8 AS updated
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'r' AND c.oid >= 16384
  GROUP BY 1
), missing AS MATERIALIZED (
  SELECT f.oid, f.conname, f.conrelid, f.confrelid, f.conkey, f.confdeltype, f.confupdtype, c.relname, c.relnamespace,
    c.relkind, COALESCE(t.pages, c.relpages) AS pages, COALESCE(t.tuples, GREATEST(c.reltuples, 0)) AS tuples
  FROM pg_catalog.pg_constraint f
  JOIN pg_catalog.pg_class c ON c.oid = f.conrelid
  LEFT JOIN tables t ON t.oid = f.conrelid
  WHERE f.contype = 'f' AND f.conparentid = 0 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
      JOIN pg_catalog.pg_am m ON m.oid = x.relam
      WHERE i.indrelid = f.conrelid AND i.indisvalid AND m.amname IN ('btree', 'hash')
        AND i.indnkeyatts >= pg_catalog.cardinality(f.conkey)
        AND (i.indkey::int2[])[0:pg_catalog.cardinality(f.conkey) - 1] @> f.conkey
        AND (i.indpred IS NULL OR pg_catalog.substring(
          i.indpred::text, '^\(?\{NULLTEST :arg \{VAR [^{}]*:varattno (\d+) [^{}]*\} :nulltesttype 1 [^{}]*\}\)?$'
        )::int2 = ANY (f.conkey)))
  ORDER BY 11 DESC, f.oid
  LIMIT 200
)
SELECT m.conname::text AS name, ns.nspname::text AS table_schema, m.relname::text AS table_name, m.conrelid::int8 AS table_oid,
  m.relkind = 'p' AS is_partitioned, k.columns, k.width_bytes, m.pages, m.tuples AS table_rows,
  m.confrelid::pg_catalog.regclass::text AS referenced, COALESCE(r.deleted, 0) AS deleted_rows,
  COALESCE(r.updated, 0) AS updated_rows, m.confdeltype::text AS on_delete, m.confupdtype::text AS on_update
FROM missing m
JOIN pg_catalog.pg_namespace ns ON ns.oid = m.relnamespace
LEFT JOIN tables r ON r.oid = m.confrelid
CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY o.place) AS columns,
    pg_catalog.sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE COALESCE((
      SELECT pg_catalog.max(s.avg_width) FROM pg_catalog.pg_stats s
      WHERE s.schemaname = ns.nspname AND s.tablename = m.relname AND s.attname = a.attname), 32) END)::int4 AS width_bytes
  FROM pg_catalog.unnest(m.conkey) WITH ORDINALITY AS o (attnum, place)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = m.conrelid AND a.attnum = o.attnum
) k
ORDER BY m.pages DESC, m.oid;

-- name: in_order
-- Columns of the largest tables that are no partitions, with how far their values follow the order of the rows.
WITH large AS MATERIALIZED (
  SELECT c.oid, c.relname, c.relnamespace, c.relpages, c.reltuples
  FROM pg_catalog.pg_class c
  WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid >= 16384
  ORDER BY c.relpages DESC, c.oid
  LIMIT 100
)
SELECT ns.nspname::text AS schema, l.relname::text AS table_name, a.attname::text AS column_name,
  a.atttypid IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype) AS is_time,
  a.attlen::int4 AS width_bytes,
  l.relpages::int8 AS pages, l.reltuples::float8 AS table_rows,
  pg_catalog.pg_stat_get_tuples_updated(l.oid) + pg_catalog.pg_stat_get_tuples_deleted(l.oid) AS changed_rows,
  pg_catalog.pg_stat_get_numscans(l.oid) AS sequential_scans,
  pg_catalog.has_column_privilege(l.oid, a.attnum, 'SELECT') AND NOT pg_catalog.row_security_active(l.oid) AS is_visible,
  s.correlation::float8 AS correlation, s.n_distinct::float8 AS distinct_values,
  b.schema AS index_schema, b.name AS index_name, b.pages AS index_pages, COALESCE(b.leads, false) AS is_indexed
FROM large l
JOIN pg_catalog.pg_namespace ns ON ns.oid = l.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype,
    'pg_catalog.int4'::regtype, 'pg_catalog.int8'::regtype, 'pg_catalog.numeric'::regtype)
-- Looked up column by column: joined as a whole the view is read for every table there is.
LEFT JOIN LATERAL (
  SELECT v.correlation, v.n_distinct FROM pg_catalog.pg_stats v
  WHERE v.schemaname = ns.nspname AND v.tablename = l.relname AND v.attname = a.attname AND NOT v.inherited
  OFFSET 0
) s ON true
LEFT JOIN LATERAL (
  SELECT true AS leads, pg_catalog.max(xn.nspname::text) FILTER (WHERE w.is_plain) AS schema,
    pg_catalog.max(x.relname::text) FILTER (WHERE w.is_plain) AS name,
    pg_catalog.max(x.relpages) FILTER (WHERE w.is_plain)::int8 AS pages
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace xn ON xn.oid = x.relnamespace
  JOIN pg_catalog.pg_am m ON m.oid = x.relam
  CROSS JOIN LATERAL (
    SELECT m.amname = 'btree' AND i.indisvalid AND NOT i.indisunique AND i.indnatts = 1 AND i.indpred IS NULL AS is_plain) w
  WHERE i.indrelid = l.oid AND (i.indkey::int2[])[0] = a.attnum
  HAVING pg_catalog.count(*) > 0
) b ON true
WHERE NOT EXISTS (
  SELECT FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = x.relam
  WHERE i.indrelid = l.oid AND m.amname = 'brin' AND a.attnum = ANY (i.indkey::int2[]) AND i.indisvalid)
ORDER BY l.relpages DESC, l.oid, a.attnum;
