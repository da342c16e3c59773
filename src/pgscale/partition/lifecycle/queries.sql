-- name: parent
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner,
  p.partstrat::text AS strategy, COALESCE(p.partnatts, 0)::int4 AS key_count, a.attname::text AS column,
  pg_catalog.format_type(a.atttypid, NULL)::text AS type_name,
  t.spcname::text AS tablespace, am.amname::text AS access_method, c.relispartition AS is_partition
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND p.partnatts = 1
LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
WHERE c.oid = %(oid)s::int8::pg_catalog.oid;

-- name: children
-- The size of DEFAULT only: pg_relation_size waits behind whoever locks a partition.
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  pg_catalog.pg_get_expr(c.relpartbound, c.oid)::text AS bound, i.inhdetachpending AS is_pending,
  CASE WHEN p.partdefid = c.oid THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END::int8 AS bytes
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = %(oid)s::int8::pg_catalog.oid AND c.relpartbound IS NOT NULL
ORDER BY c.oid;

-- name: relation_now
SELECT n.nspname::text, c.relname::text, c.relispartition, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s::int8::pg_catalog.oid;

-- name: is_pending
SELECT i.inhdetachpending FROM pg_catalog.pg_inherits i
WHERE i.inhrelid = %(oid)s::int8::pg_catalog.oid AND i.inhparent = %(parent)s::int8::pg_catalog.oid;

-- name: waits_for_table
-- Who reads or writes rows does not queue behind SHARE UPDATE EXCLUSIVE, and an autovacuum gives way to it after a second.
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = %(pid)s::int4 AND NOT l.granted
  AND l.locktype = 'relation' AND l.mode <> 'ShareUpdateExclusiveLock'
  AND l.waitstart < pg_catalog.clock_timestamp() - %(seconds)s::float8 * interval '1 second');

-- name: references_to
-- Clones of one foreign key on the partitions of the referring table are one; the topmost speaks for them.
SELECT n.nspname::text AS schema, r.relname::text AS name, con.conname::text AS constraint_name,
  (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.ord) FROM pg_catalog.unnest(con.conkey) WITH ORDINALITY k(num, ord)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.num) AS columns,
  (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.ord) FROM pg_catalog.unnest(con.confkey) WITH ORDINALITY k(num, ord)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.num) AS referenced
FROM pg_catalog.pg_constraint con
JOIN pg_catalog.pg_class r ON r.oid = con.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
WHERE con.contype = 'f' AND con.confrelid = %(oid)s::int8::pg_catalog.oid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint up
    WHERE up.oid = con.conparentid AND up.conrelid <> con.conrelid AND up.confrelid = con.confrelid)
ORDER BY 1, 2, 3;

-- name: publications
SELECT DISTINCT t.pubname::text FROM pg_catalog.pg_publication_tables t
WHERE (t.schemaname, t.tablename) IN (
  SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = %(oid)s::int8::pg_catalog.oid
    OR c.oid IN (SELECT a.relid FROM pg_catalog.pg_partition_ancestors(%(oid)s::int8::pg_catalog.oid::pg_catalog.regclass) a))
ORDER BY 1;

-- name: index_on
SELECT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am m ON m.oid = c.relam
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
  WHERE i.indrelid = %(oid)s::int8::pg_catalog.oid AND m.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL
    AND a.attname = %(column)s::text),
  pg_catalog.pg_relation_size(%(oid)s::int8::pg_catalog.oid::pg_catalog.regclass) = 0;

-- name: user_triggers
-- Before 15 what a partition has of its parent's triggers counts as internal; foreign keys' own are left alone, and so
-- are those of a run that logs what changes.
SELECT t.tgname::text, t.tgenabled::text FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = %(oid)s::int8::pg_catalog.oid AND t.tgenabled <> 'D' AND (NOT t.tgisinternal OR t.tgparentid <> 0)
  AND t.tgname NOT LIKE '\_pgscale\_%%'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint con WHERE con.oid = t.tgconstraint AND con.contype <> 't')
ORDER BY 1;

-- name: stored_columns
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum;

-- name: identity_index_of_sibling
-- The new leaf's index under the parent index whose child is the sibling's replica identity.
SELECT mine.relname::text
FROM pg_catalog.pg_index s
JOIN pg_catalog.pg_inherits si ON si.inhrelid = s.indexrelid
JOIN pg_catalog.pg_inherits mi ON mi.inhparent = si.inhparent
JOIN pg_catalog.pg_index m ON m.indexrelid = mi.inhrelid
JOIN pg_catalog.pg_class mine ON mine.oid = m.indexrelid
WHERE s.indrelid = %(sibling)s::int8::pg_catalog.oid AND s.indisreplident
  AND m.indrelid = pg_catalog.to_regclass(%(leaf)s::text);

-- name: archive_columns
-- Domains are stored as what they are made of.
WITH RECURSIVE base(attnum, type_oid, typmod) AS (
  SELECT a.attnum, a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, y.typbasetype, y.typtypmod FROM base b JOIN pg_catalog.pg_type y ON y.oid = b.type_oid
  WHERE y.typtype = 'd'
)
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod)::text AS type,
  y.typname::text AS base, CASE WHEN y.typname = 'numeric' AND b.typmod >= 4 THEN ((b.typmod - 4) >> 16) & 65535 END::int4
    AS numeric_precision,
  CASE WHEN y.typname = 'numeric' AND b.typmod >= 4 THEN (((b.typmod - 4) & 2047) # 1024) - 1024 END::int4 AS numeric_scale,
  y.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AS is_builtin
FROM base b
JOIN pg_catalog.pg_type y ON y.oid = b.type_oid AND y.typtype <> 'd'
JOIN pg_catalog.pg_attribute a ON a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attnum = b.attnum
ORDER BY a.attnum;

-- name: own_indexes
-- Indexes of a partition that belong to no index of its table.
SELECT i.indexrelid::int8 FROM pg_catalog.pg_index i
WHERE i.indrelid = %(oid)s::int8::pg_catalog.oid AND i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid);

-- name: partman
-- Rights are asked for by oid: names in a schema that may not be used are errors.
SELECT n.nspname::text AS schema, e.extversion::text AS version,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_use,
  COALESCE(pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')), false) AS may_read,
  COALESCE(pg_catalog.bool_or(c.relname = 'part_config' AND pg_catalog.has_any_column_privilege(c.oid, 'UPDATE')), false)
    AS may_update
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname IN ('part_config', 'part_config_sub')
WHERE e.extname = 'pg_partman'
GROUP BY 1, 2, 3;

-- name: interval_parts
SELECT (EXTRACT(YEAR FROM i) * 12 + EXTRACT(MONTH FROM i))::int4 AS months, EXTRACT(DAY FROM i)::int4 AS days,
  (EXTRACT(HOUR FROM i) * 3600 + EXTRACT(MINUTE FROM i) * 60 + EXTRACT(SECOND FROM i))::float8 AS seconds
FROM (SELECT %(text)s::text::interval AS i) t;

-- name: time_zones
-- This login's, then those that the database and its roles are given.
SELECT z.zone FROM (
  SELECT 0 AS ord, s.reset_val::text AS zone FROM pg_catalog.pg_settings s WHERE s.name = 'TimeZone'
  UNION ALL
  SELECT 1, pg_catalog.substr(t.setting, 1 + pg_catalog.strpos(t.setting, '='))
  FROM pg_catalog.pg_db_role_setting d, pg_catalog.unnest(d.setconfig) t(setting)
  WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database()))
    AND pg_catalog.strpos(pg_catalog.lower(t.setting), 'timezone=') = 1
) z ORDER BY z.ord, z.zone;

-- name: template_lacks
-- Alike is what reads alike from USING on, and is unique where the template's is.
SELECT tc.relname::text FROM pg_catalog.pg_index t
JOIN pg_catalog.pg_class tc ON tc.oid = t.indexrelid
JOIN pg_catalog.pg_class tt ON tt.oid = t.indrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = tt.relnamespace
WHERE tn.nspname = pg_catalog.split_part(%(template)s::text, '.', 1)
  AND tt.relname = pg_catalog.split_part(%(template)s::text, '.', 2)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_index o
    WHERE o.indrelid = ANY (%(others)s::int8[]::pg_catalog.oid[]) AND o.indisvalid AND (o.indisunique OR NOT t.indisunique)
      AND pg_catalog.substring(pg_catalog.pg_get_indexdef(o.indexrelid), ' USING .*')
        = pg_catalog.substring(pg_catalog.pg_get_indexdef(t.indexrelid), ' USING .*'))
ORDER BY 1;
