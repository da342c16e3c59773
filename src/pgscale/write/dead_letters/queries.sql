-- name: has_table
-- From the catalogs: to_regclass needs the right to use the schema.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'pgscale' AND c.relname = 'dead_letter')

-- name: lock_schema
SELECT pg_catalog.pg_advisory_xact_lock(%(lock)s::pg_catalog.int4, 0)

-- name: read_encoding
SELECT pg_catalog.getdatabaseencoding()::text

-- name: insert_letters
INSERT INTO pgscale.dead_letter (source, table_name, row_index, column_name, sqlstate, reason, row, merge)
SELECT l.source, l.table_name, l.row_index, l.column_name, l.sqlstate, l.reason, l.row, l.merge
FROM pg_catalog.jsonb_to_recordset(%(letters)s::pg_catalog.jsonb) AS l (source text, table_name text,
  row_index pg_catalog.int8, column_name text, sqlstate text, reason text, row pg_catalog.jsonb, merge pg_catalog.jsonb)

-- name: count_letters
SELECT pg_catalog.count(*), COALESCE(pg_catalog.max(l.id), 0)
FROM pgscale.dead_letter l
WHERE (%(ids)s::pg_catalog.int8[] IS NULL OR l.id = ANY (%(ids)s::pg_catalog.int8[]))
  -- A name without a schema is one of any schema.
  AND (%(table)s::text IS NULL OR l.table_name = %(table)s::text OR (pg_catalog.strpos(%(table)s::text, '.') = 0
    AND pg_catalog."right"(l.table_name, pg_catalog.length(%(table)s::text) + 1) = '.' || %(table)s::text))
  AND (%(source)s::text IS NULL OR l.source = %(source)s::text)
  AND (%(sqlstate)s::text IS NULL OR l.sqlstate = %(sqlstate)s::text)
  AND (%(older_than_s)s::pg_catalog.float8 IS NULL
    OR l.at < pg_catalog.now() - pg_catalog.make_interval(secs => %(older_than_s)s::pg_catalog.float8))
  AND (%(newer_than_s)s::pg_catalog.float8 IS NULL
    OR l.at >= pg_catalog.now() - pg_catalog.make_interval(secs => %(newer_than_s)s::pg_catalog.float8))

-- name: select_letters
SELECT l.id, l.at, l.source, l.table_name AS "table", l.row_index AS index, l.column_name AS "column", l.sqlstate, l.reason,
  l.row, l.merge, l.tries
FROM pgscale.dead_letter l
WHERE l.id > %(after)s::pg_catalog.int8 AND l.id <= %(last)s::pg_catalog.int8
  AND (%(ids)s::pg_catalog.int8[] IS NULL OR l.id = ANY (%(ids)s::pg_catalog.int8[]))
  AND (%(table)s::text IS NULL OR l.table_name = %(table)s::text OR (pg_catalog.strpos(%(table)s::text, '.') = 0
    AND pg_catalog."right"(l.table_name, pg_catalog.length(%(table)s::text) + 1) = '.' || %(table)s::text))
  AND (%(source)s::text IS NULL OR l.source = %(source)s::text)
  AND (%(sqlstate)s::text IS NULL OR l.sqlstate = %(sqlstate)s::text)
  AND (%(older_than_s)s::pg_catalog.float8 IS NULL
    OR l.at < pg_catalog.now() - pg_catalog.make_interval(secs => %(older_than_s)s::pg_catalog.float8))
  AND (%(newer_than_s)s::pg_catalog.float8 IS NULL
    OR l.at >= pg_catalog.now() - pg_catalog.make_interval(secs => %(newer_than_s)s::pg_catalog.float8))
ORDER BY l.id LIMIT %(most)s::pg_catalog.int8

-- name: drop_letters
DELETE FROM pgscale.dead_letter WHERE id = ANY (%(ids)s::pg_catalog.int8[])

-- name: take_letters
-- Letters that another session works on are left to it.
SELECT l.id, l.table_name AS "table", l.row, l.merge
FROM pgscale.dead_letter l
WHERE l.id > %(after)s::pg_catalog.int8 AND l.id <= %(last)s::pg_catalog.int8
  AND (%(ids)s::pg_catalog.int8[] IS NULL OR l.id = ANY (%(ids)s::pg_catalog.int8[]))
  AND (%(table)s::text IS NULL OR l.table_name = %(table)s::text OR (pg_catalog.strpos(%(table)s::text, '.') = 0
    AND pg_catalog."right"(l.table_name, pg_catalog.length(%(table)s::text) + 1) = '.' || %(table)s::text))
  AND (%(source)s::text IS NULL OR l.source = %(source)s::text)
  AND (%(sqlstate)s::text IS NULL OR l.sqlstate = %(sqlstate)s::text)
  AND (%(older_than_s)s::pg_catalog.float8 IS NULL
    OR l.at < pg_catalog.now() - pg_catalog.make_interval(secs => %(older_than_s)s::pg_catalog.float8))
  AND (%(newer_than_s)s::pg_catalog.float8 IS NULL
    OR l.at >= pg_catalog.now() - pg_catalog.make_interval(secs => %(newer_than_s)s::pg_catalog.float8))
ORDER BY l.id LIMIT %(most)s::pg_catalog.int8 FOR UPDATE SKIP LOCKED

-- name: note_tries
UPDATE pgscale.dead_letter l SET tries = l.tries + 1, column_name = n.column_name, sqlstate = n.sqlstate, reason = n.reason
FROM ROWS FROM (pg_catalog.unnest(%(ids)s::pg_catalog.int8[]), pg_catalog.unnest(%(columns)s::text[]),
  pg_catalog.unnest(%(states)s::text[]), pg_catalog.unnest(%(reasons)s::text[])) AS n(id, column_name, sqlstate, reason)
WHERE l.id = n.id

-- name: may_read
SELECT COALESCE(pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'), false)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgscale' AND c.relname = 'dead_letter'
