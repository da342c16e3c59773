-- What the catalog has, for whoever asks: one set-based query a fact, the same for pgscale.catalog's readers and its
-- SQLAlchemy models, which put NULL and true for the parameters. No version gates, therefore: what newer servers have
-- is asked of the row as JSON.
--
-- Without `definitions` nothing here locks a table. Sizes are pages as of the last VACUUM or ANALYZE, for
-- pg_relation_size locks; expressions that name columns are written out with ACCESS SHARE on their table. Constants,
-- keys and foreign keys are not.

-- name: tables
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
    WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
  CASE c.relpersistence WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary' END AS persistence,
  pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, ts.spcname::text AS tablespace,
  c.relispartition AS is_partition,
  CASE pt.partstrat WHEN 'h' THEN 'hash' WHEN 'l' THEN 'list' WHEN 'r' THEN 'range' END AS partition_strategy,
  CASE WHEN pt.partrelid IS NOT NULL THEN ARRAY(
    SELECT a.attname::text FROM pg_catalog.unnest(pt.partattrs::int2[]) WITH ORDINALITY AS k (number, place)
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number AND k.number <> 0
    ORDER BY k.place) END AS partition_columns,
  CASE WHEN c.relkind <> 'v' AND c.reltuples >= 0 THEN c.reltuples::int8 END AS estimated_rows,
  c.relpages::int8 * pg_catalog.current_setting('block_size')::int8 AS heap_bytes,
  COALESCE(tc.relpages, 0)::int8 * pg_catalog.current_setting('block_size')::int8 AS toast_bytes,
  COALESCE(x.pages, 0)::int8 * pg_catalog.current_setting('block_size')::int8 AS index_bytes,
  c.relrowsecurity AS row_security, c.reloptions AS options,
  e.extname::text AS extension, pg_catalog.obj_description(c.oid, 'pg_class') AS comment
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_partitioned_table pt ON pt.partrelid = c.oid
LEFT JOIN pg_catalog.pg_class tc ON tc.oid = c.reltoastrelid
LEFT JOIN (
  SELECT i.indrelid, pg_catalog.sum(ic.relpages)::int8 AS pages
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid GROUP BY i.indrelid
) x ON x.indrelid = c.oid
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
  AND d.objsubid = 0 AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: columns
SELECT c.oid::int8 AS table_oid, n.nspname::text AS schema, c.relname::text AS table_name, a.attnum::int4 AS number,
  a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.atttypid::int8 AS type_oid,
  a.attnotnull AS not_null,
  -- A default names no columns, so it is written out without its table; what generates a column does.
  CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(ad.adbin, 0)
    WHEN %(definitions)s::bool THEN pg_catalog.pg_get_expr(ad.adbin, ad.adrelid) END AS default_sql,
  CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END AS generated,
  CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
  CASE WHEN a.attcollation <> y.typcollation THEN co.collname::text END AS collation,
  CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END AS storage,
  CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
  pg_catalog.col_description(c.oid, a.attnum) AS comment
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_catalog.pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: indexes
SELECT ic.oid::int8 AS oid, n.nspname::text AS schema, c.oid::int8 AS table_oid, c.relname::text AS table_name,
  ic.relname::text AS name, am.amname::text AS method, i.indisunique AS is_unique, i.indisprimary AS is_primary,
  i.indisexclusion AS is_exclusion, i.indisvalid AS is_valid, i.indisready AS is_ready,
  COALESCE(pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct', 'false')::bool AS nulls_not_distinct,
  i.indpred IS NOT NULL AS is_partial, k.columns, k.included, k.operator_classes, k.is_descending,
  CASE WHEN ic.reltuples >= 0 THEN ic.reltuples::int8 END AS estimated_rows,
  ic.relpages::int8 * pg_catalog.current_setting('block_size')::int8 AS bytes,
  ic.reloptions AS options, pg_catalog.obj_description(ic.oid, 'pg_class') AS comment,
  CASE WHEN %(definitions)s::bool THEN pg_catalog.pg_get_indexdef(ic.oid) END AS definition
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am am ON am.oid = ic.relam
CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.place) FILTER (WHERE u.place <= i.indnkeyatts) AS columns,
    COALESCE(pg_catalog.array_agg(a.attname::text ORDER BY u.place) FILTER (WHERE u.place > i.indnkeyatts), '{}')
      AS included,
    pg_catalog.array_agg(oc.opcname::text ORDER BY u.place) FILTER (WHERE u.place <= i.indnkeyatts) AS operator_classes,
    pg_catalog.array_agg(u.option & 1 = 1 ORDER BY u.place) FILTER (WHERE u.place <= i.indnkeyatts) AS is_descending
  FROM ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]),
    pg_catalog.unnest(i.indoption::int2[])) WITH ORDINALITY AS u (number, class, option, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.number AND u.number <> 0
  LEFT JOIN pg_catalog.pg_opclass oc ON oc.oid = u.class
) k
WHERE c.relkind IN ('r', 'p', 'm')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: constraints
SELECT k.oid::int8 AS oid, n.nspname::text AS schema, c.oid::int8 AS table_oid, c.relname::text AS table_name,
  k.conname::text AS name,
  CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key' WHEN 'c' THEN 'check'
    WHEN 'x' THEN 'exclusion' ELSE 'not null' END AS kind,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns,
  k.convalidated AS is_validated, COALESCE(pg_catalog.to_jsonb(k) ->> 'conenforced', 'true')::bool AS is_enforced,
  k.condeferrable AS is_deferrable, k.condeferred AS is_deferred,
  NULLIF(k.conindid, 0)::int8 AS index_oid, NULLIF(k.conparentid, 0)::int8 AS parent_oid,
  NULLIF(k.confrelid, 0)::int8 AS references_oid, fn.nspname::text AS references_schema,
  fc.relname::text AS references_table,
  CASE WHEN k.contype = 'f' THEN ARRAY(
    SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place)
    END AS references_columns,
  CASE WHEN k.contype = 'f' THEN CASE k.confupdtype WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
    WHEN 'n' THEN 'set null' WHEN 'd' THEN 'set default' ELSE 'no action' END END AS on_update,
  CASE WHEN k.contype = 'f' THEN CASE k.confdeltype WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
    WHEN 'n' THEN 'set null' WHEN 'd' THEN 'set default' ELSE 'no action' END END AS on_delete,
  pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
  CASE WHEN k.contype NOT IN ('c', 'x') OR %(definitions)s::bool THEN pg_catalog.pg_get_constraintdef(k.oid) END
    AS definition
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class fc ON fc.oid = k.confrelid
LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
WHERE k.contype IN ('p', 'u', 'f', 'c', 'x', 'n')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: functions
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.proname::text AS name,
  CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window function' ELSE 'function' END
    AS kind,
  pg_catalog.oidvectortypes(p.proargtypes) AS input_types,
  pg_catalog.pg_get_function_arguments(p.oid) AS arguments, pg_catalog.pg_get_function_result(p.oid) AS result,
  l.lanname::text AS language, pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
  CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
  CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
  p.proisstrict AS is_strict, p.prosecdef AS is_security_definer, p.proleakproof AS is_leakproof,
  p.proretset AS returns_set, p.procost::float8 AS cost, p.prorows::float8 AS rows, p.proconfig AS settings,
  CASE WHEN p.prosqlbody IS NULL THEN p.prosrc END AS body, e.extname::text AS extension,
  pg_catalog.obj_description(p.oid, 'pg_proc') AS comment,
  -- An SQL-standard body is written out with ACCESS SHARE on what it names.
  CASE WHEN p.prokind <> 'a' AND (p.prosqlbody IS NULL OR %(definitions)s::bool)
    THEN pg_catalog.pg_get_functiondef(p.oid) END AS definition
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
  AND d.objsubid = 0 AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: partitions
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, pc.oid::int8 AS parent_oid,
  pn.nspname::text AS parent_schema, pc.relname::text AS parent_name,
  -- A bound names no columns.
  pg_catalog.pg_get_expr(c.relpartbound, 0) AS bound,
  pg_catalog.pg_get_expr(c.relpartbound, 0) = 'DEFAULT' AS is_default,
  c.relkind = 'p' AS is_partitioned, i.inhdetachpending AS is_detach_pending,
  CASE WHEN c.reltuples >= 0 THEN c.reltuples::int8 END AS estimated_rows,
  c.relpages::int8 * pg_catalog.current_setting('block_size')::int8 AS heap_bytes
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;

-- name: freshness
SELECT c.oid::int8 AS table_oid, n.nspname::text AS schema, c.relname::text AS name,
  pg_catalog.pg_stat_get_live_tuples(c.oid) AS live_rows, pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead_rows,
  pg_catalog.pg_stat_get_mod_since_analyze(c.oid) AS changed_since_analyze,
  pg_catalog.pg_stat_get_ins_since_vacuum(c.oid) AS inserted_since_vacuum,
  pg_catalog.pg_stat_get_last_vacuum_time(c.oid) AS last_vacuum,
  pg_catalog.pg_stat_get_last_autovacuum_time(c.oid) AS last_autovacuum,
  pg_catalog.pg_stat_get_last_analyze_time(c.oid) AS last_analyze,
  pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid) AS last_autoanalyze
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm')
  AND CASE WHEN %(schemas)s::text[] IS NULL THEN n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END;
