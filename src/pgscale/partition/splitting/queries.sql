-- Where a partition hangs and what is its own. Only SELECTs.

-- name: partition_of
SELECT i.inhparent::int8 FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE i.inhrelid = %(oid)s::int8::pg_catalog.oid AND c.relispartition;

-- name: parent
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
  pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, c.relkind::text AS kind,
  p.partstrat::text AS strategy, COALESCE(p.partnatts, 0)::int4 AS key_count,
  a.attname::text AS column, pg_catalog.format_type(a.atttypid, NULL)::text AS type_name,
  COALESCE(o.opcdefault AND p.partcollation[0] = a.attcollation, false) AS key_is_plain,
  c.relispartition AS is_partition
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
LEFT JOIN pg_catalog.pg_opclass o ON o.oid = p.partclass[0]
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND p.partnatts = 1
WHERE c.oid = %(oid)s::int8::pg_catalog.oid;

-- name: children
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  pg_catalog.pg_get_expr(c.relpartbound, c.oid)::text AS bound, i.inhdetachpending AS is_pending,
  CASE WHEN c.relkind = 'r' THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END::int8 AS bytes
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = %(oid)s::int8::pg_catalog.oid
ORDER BY c.oid;

-- name: condition
SELECT pg_catalog.pg_get_partition_constraintdef(%(oid)s::int8::pg_catalog.oid);

-- name: own_triggers
-- Not those that a partition has of its parent's.
SELECT t.tgname::text FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = %(oid)s::int8::pg_catalog.oid AND NOT t.tgisinternal AND t.tgparentid = 0
ORDER BY 1;

-- name: own_indexes
SELECT i.indexrelid::int8 FROM pg_catalog.pg_index i
WHERE i.indrelid = %(oid)s::int8::pg_catalog.oid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)
ORDER BY 1;

-- name: lacking_indexes
-- The parent's indexes of which the partition has none: ATTACH would build them under its lock.
SELECT c.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(parent)s::int8::pg_catalog.oid
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_index l ON l.indexrelid = h.inhrelid
    WHERE h.inhparent = i.indexrelid AND l.indrelid = %(oid)s::int8::pg_catalog.oid)
ORDER BY 1;

-- name: signature
-- What the swap rests on: the parent's definition, its DEFAULT partition, and the given partitions with their bounds and
-- what is theirs. One pass over each catalog, since it is asked under the lock.
SELECT pg_catalog.md5(pg_catalog.concat_ws('|',
  (SELECT pg_catalog.concat_ws(',', c.relname, c.relnamespace, c.relowner, p.partdefid, p.partstrat, p.partattrs::text)
   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
   WHERE c.oid = %(parent)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', c.oid, c.relname, c.relnamespace,
     pg_catalog.pg_get_expr(c.relpartbound, c.oid), i.inhdetachpending), ';' ORDER BY c.oid)
   FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = %(parent)s::int8::pg_catalog.oid
     AND (c.oid::int8 = ANY (%(partitions)s::int8[]) OR %(all)s::bool)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
     a.attidentity, a.attgenerated, a.attisdropped), ';' ORDER BY a.attnum)
   FROM pg_catalog.pg_attribute a WHERE a.attrelid = %(parent)s::int8::pg_catalog.oid AND a.attnum > 0),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', k.oid, k.conname, k.convalidated), ';' ORDER BY k.oid)
   FROM pg_catalog.pg_constraint k WHERE k.conparentid = 0
     AND (k.conrelid = %(parent)s::int8::pg_catalog.oid OR k.confrelid = %(parent)s::int8::pg_catalog.oid)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', i.indexrelid, i.indisvalid), ';' ORDER BY i.indexrelid)
   FROM pg_catalog.pg_index i WHERE i.indrelid = %(parent)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', c.oid, c.relowner, c.relacl, c.relreplident, c.relrowsecurity,
     c.relforcerowsecurity, c.reltablespace, pg_catalog.array_to_string(c.reloptions, ',')), ';' ORDER BY c.oid)
   FROM pg_catalog.pg_class c WHERE c.oid::int8 = ANY (%(partitions)s::int8[])),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
     a.attnotnull, a.attstorage, a.attacl), ';' ORDER BY a.attrelid, a.attnum)
   FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY (%(partitions)s::int8[]::oid[]) AND a.attnum > 0),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', k.oid, k.conname, k.convalidated), ';' ORDER BY k.oid)
   FROM pg_catalog.pg_constraint k WHERE k.conrelid = ANY (%(partitions)s::int8[]::oid[])),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', i.indexrelid, i.indisvalid), ';' ORDER BY i.indexrelid)
   FROM pg_catalog.pg_index i WHERE i.indrelid = ANY (%(partitions)s::int8[]::oid[])),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', t.oid, t.tgenabled), ';' ORDER BY t.oid)
   FROM pg_catalog.pg_trigger t WHERE t.tgrelid = ANY (%(partitions)s::int8[]::oid[]) AND NOT t.tgisinternal
     AND t.tgname NOT LIKE '\_pgscale\_%%'),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', p.oid, p.xmin), ';' ORDER BY p.oid)
   FROM pg_catalog.pg_policy p WHERE p.polrelid = ANY (%(partitions)s::int8[]::oid[])),
  -- Views, functions and publications that name one of them.
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', d.classid, d.objid), ';' ORDER BY d.classid, d.objid)
   FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid = ANY (%(partitions)s::int8[]::oid[])
     AND d.classid IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
       'pg_catalog.pg_publication_rel'::pg_catalog.regclass))));

-- name: columns_differ
-- Columns, by name and type, that only one of two tables has: their order may differ.
SELECT EXISTS (
  SELECT FROM (SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = pg_catalog.to_regclass(%(one)s::text) AND a.attnum > 0 AND NOT a.attisdropped) x
  FULL JOIN (SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = pg_catalog.to_regclass(%(other)s::text) AND a.attnum > 0 AND NOT a.attisdropped) y
  ON x.attname = y.attname AND x.type = y.type
  WHERE x.attname IS NULL OR y.attname IS NULL);

-- name: oids_of
SELECT COALESCE(pg_catalog.array_agg(c.oid::int8 ORDER BY c.oid), '{}') FROM pg_catalog.pg_class c
WHERE c.oid = ANY (SELECT pg_catalog.to_regclass(n)::oid FROM pg_catalog.unnest(%(names)s::text[]) n);
