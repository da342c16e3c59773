-- Functions as they are to be compared with files. Names in definitions are those that the search_path of pg_catalog
-- alone gives: the caller's path is put aside for the time of a transaction.

-- name: begin
-- Left to right: the schema that a name without one is made in is asked for before the path is changed.
SELECT pg_catalog.current_setting('search_path') AS search_path,
  pg_catalog.current_schema()::text AS schema,
  pg_catalog.set_config('search_path', 'pg_catalog', true),
  pg_catalog.set_config('transaction_read_only', 'on', true),
  -- An SQL-standard body is written out with its tables in ACCESS SHARE: not to be waited for without an end.
  pg_catalog.set_config('lock_timeout', '5s', true);

-- name: functions
-- What extensions and types (a range's constructors) brought with them is not the user's, nor are pgscale's own.
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.proname::text AS name, p.prokind::text AS kind,
  p.proargtypes::oid[]::int8[] AS inputs,
  ARRAY(SELECT t.typname::text FROM pg_catalog.unnest(p.proargtypes::oid[]) WITH ORDINALITY AS u (type_oid, place)
    JOIN pg_catalog.pg_type t ON t.oid = u.type_oid ORDER BY u.place) AS input_names,
  COALESCE(p.proallargtypes, p.proargtypes::oid[])::int8[] AS types, p.proargmodes::text[] AS modes,
  p.proargnames AS names, p.prorettype::int8 AS result, p.proretset AS returns_set,
  pg_catalog.oidvectortypes(p.proargtypes) AS shown_inputs,
  CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) END AS definition
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE CASE WHEN %(schemas)s::text[] IS NULL
    THEN n.nspname !~ '^pg_' AND n.nspname !~ '^pgscale(_|$)' AND n.nspname <> 'information_schema'
    ELSE n.nspname = ANY (%(schemas)s::text[]) END
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
ORDER BY n.nspname COLLATE "C", p.proname COLLATE "C", pg_catalog.oidvectortypes(p.proargtypes) COLLATE "C", p.oid;

-- name: restore
SELECT pg_catalog.set_config('search_path', %(search_path)s::text, true);

-- name: types
-- In the order asked; a column is that of `relation.column%%TYPE`.
SELECT (CASE WHEN u.column_name IS NULL THEN pg_catalog.to_regtype(u.name)
    ELSE (SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = pg_catalog.to_regclass(u.name) AND a.attname = u.column_name AND NOT a.attisdropped)
    END)::oid::int8 AS type_oid
FROM ROWS FROM (pg_catalog.unnest(%(names)s::text[]), pg_catalog.unnest(%(columns)s::text[]))
  WITH ORDINALITY AS u (name, column_name, place)
ORDER BY u.place;

-- name: missing_schemas
SELECT s.name FROM pg_catalog.unnest(%(schemas)s::text[]) AS s (name)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = s.name);
