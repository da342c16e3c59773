-- name: read_table
SELECT c.oid::pg_catalog.int8, n.nspname::text, c.relname::text, c.relkind::text,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY') AS may_stage,
  c.reltype::pg_catalog.int8 AS row_type_oid
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%(name)s)

-- name: read_columns
SELECT a.attname::text AS name, a.atttypid::pg_catalog.int8 AS type_oid,
  pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
  a.attnotnull AS is_not_null, (a.attgenerated <> '') AS is_generated, (t.typreceive = 0) AS is_text_only,
  CASE WHEN a.attcollation IN (0, t.typcollation) THEN ''
    ELSE pg_catalog.format('%%I.%%I', n.nspname, c.collname) END AS collation,
  COALESCE(c.collisdeterministic, true) AS is_deterministic
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
WHERE a.attrelid = %(oid)s::pg_catalog.int8::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: read_layout
SELECT a.attname::text, a.atttypid::pg_catalog.int8 FROM pg_catalog.pg_attribute a
WHERE a.attrelid = pg_catalog.to_regclass(%(name)s) AND a.attnum > 0 AND NOT a.attisdropped

-- name: read_types
WITH RECURSIVE wanted AS (
  SELECT t.oid FROM pg_catalog.pg_type t
  WHERE t.oid = ANY (ARRAY(SELECT o::pg_catalog.oid FROM pg_catalog.unnest(%(oids)s::pg_catalog.int8[]) o))
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
  -- Not what has elements only (int2vector, point): the array of a type is the one that it names.
  CASE WHEN t.oid = (SELECT e.typarray FROM pg_catalog.pg_type e WHERE e.oid = t.typelem)
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
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
-- Arrays of subqueries, which the planner takes for ten elements: a recursive query it takes for thousands of rows, so
-- dear that JIT would compile it, for 50 ms a call.
WHERE t.oid = ANY (ARRAY(SELECT w.oid FROM wanted w))

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

-- name: read_guards
WITH tree AS (
  SELECT %(oid)s::pg_catalog.int8::pg_catalog.oid AS oid
  UNION
  SELECT p.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(%(oid)s::pg_catalog.int8::pg_catalog.oid::pg_catalog.regclass) p
), guards AS (
  SELECT c.conname::text AS name, n.nspname::text AS schema, c.condeferred AS is_deferred,
    (c.conrelid = %(oid)s::pg_catalog.int8::pg_catalog.oid) AS is_own,
    (c.contype = 'f' AND c.confrelid IN (SELECT t.oid FROM tree t)) AS refers_to_itself,
    -- It reads columns only, by the collations of their types, and is enforced (18).
    (c.contype = 'c' AND pg_catalog.cardinality(c.conkey) > 0 AND 0 < ALL (c.conkey)
      AND pg_catalog.to_jsonb(c) ->> 'conenforced' IS DISTINCT FROM 'false'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attcollation <> y.typcollation)) AS is_of_row,
    CASE c.contype WHEN 'c' THEN pg_catalog.pg_get_constraintdef(c.oid) END AS definition,
    ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(attnum, place)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns
  FROM tree t JOIN pg_catalog.pg_constraint c ON c.conrelid = t.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
  UNION ALL
  SELECT x.relname::text, '', false, false, false, false, NULL,
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indexrelid
      AND a.attnum <= i.indnkeyatts ORDER BY a.attnum)
  FROM tree t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  WHERE i.indisunique AND 0 <> ALL (i.indkey::pg_catalog.int2[])
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid)
)
SELECT
  -- The bits of tgtype: 1 ROW, 2 BEFORE, 4 INSERT.
  EXISTS (SELECT FROM tree t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 7 = 7) AS may_change_rows,
  COALESCE((SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(g)) FROM guards g), '[]') AS guards

-- name: read_foreign_keys
WITH given AS (
  SELECT g.oid FROM pg_catalog.unnest(%(oids)s::pg_catalog.int8[]::pg_catalog.oid[]) g(oid)
), kin AS (
  -- A foreign key of a partition is one of its parent, and the other way round.
  SELECT g.oid, g.oid AS relid FROM given g
  UNION SELECT g.oid, a.relid::pg_catalog.oid FROM given g, pg_catalog.pg_partition_ancestors(g.oid) a
  UNION SELECT g.oid, t.relid::pg_catalog.oid FROM given g, pg_catalog.pg_partition_tree(g.oid) t
)
SELECT DISTINCT c.conname::text AS name, n.nspname::text AS schema, child.oid::pg_catalog.int8 AS child_oid,
  parent.oid::pg_catalog.int8 AS parent_oid, rn.nspname::text AS table_schema, r.relname::text AS table_name,
  pn.nspname::text AS parent_schema, p.relname::text AS parent_name, c.condeferrable AS is_deferrable,
  c.condeferred AS is_deferred
FROM pg_catalog.pg_constraint c
JOIN kin child ON child.relid = c.conrelid JOIN kin parent ON parent.relid = c.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
JOIN pg_catalog.pg_class r ON r.oid = c.conrelid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
JOIN pg_catalog.pg_class p ON p.oid = c.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0 AND pg_catalog.to_jsonb(c) ->> 'conenforced' IS DISTINCT FROM 'false'
ORDER BY table_schema, table_name, name, child_oid, parent_oid

-- name: read_kin_of_keys
WITH RECURSIVE kin AS (
  SELECT c.oid FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])) g(schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = g.schema
  JOIN pg_catalog.pg_constraint c ON c.connamespace = n.oid AND c.conname = g.name
  UNION
  -- Of a partition the key may have another name.
  SELECT c.oid FROM kin k JOIN pg_catalog.pg_constraint c ON c.conparentid = k.oid
)
SELECT n.nspname::text AS schema, c.conname::text AS name
FROM kin k JOIN pg_catalog.pg_constraint c ON c.oid = k.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace

-- name: read_xid
SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text

-- name: read_incarnation
SELECT s.system_identifier::pg_catalog.text AS system,
  CASE WHEN NOT pg_catalog.pg_is_in_recovery()
    THEN pg_catalog."left"(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END AS timeline,
  pg_catalog.pg_postmaster_start_time() AS started_at, b.stats_reset AS counting_since,
  pg_catalog.clock_timestamp() AS found_at
FROM pg_catalog.pg_control_system() s, pg_catalog.pg_stat_bgwriter b

-- name: read_xact_status
SELECT pg_catalog.pg_xact_status(%(xid)s::text::pg_catalog.xid8)::text

-- name: end_idle_transaction
-- An id is of one session at most, so no other one can be hit.
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
WHERE a.backend_xid = %(xid)s::text::pg_catalog.xid8::pg_catalog.xid AND a.state IN ('idle in transaction', 'idle in transaction (aborted)')

-- name: read_checkpoint
-- Where a checkpoint is made while others write, its record comes after the point that recovery would begin from; with
-- wal_level = minimal that is not so before 17.
SELECT c.checkpoint_time AS made_at,
  c.checkpoint_lsn = c.redo_lsn AND (pg_catalog.current_setting('wal_level') <> 'minimal'
    OR pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 170000) AS is_last_word,
  -- epoch:id
  (pg_catalog.split_part(c.next_xid, ':', 1)::pg_catalog.numeric * 4294967296
    + pg_catalog.split_part(c.next_xid, ':', 2)::pg_catalog.numeric)::text AS next_xid
FROM pg_catalog.pg_control_checkpoint() c
