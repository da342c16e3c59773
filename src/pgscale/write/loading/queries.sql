-- name: exists
SELECT pg_catalog.to_regclass('pgscale.load_witness') IS NOT NULL;

-- name: read_table_facts
SELECT c.relkind::text AS kind, (c.relpersistence = 'u') AS is_unlogged,
  pg_catalog.has_table_privilege(c.oid, 'INSERT') OR EXISTS (
    SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'INSERT')) AS may_insert
FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s::pg_catalog.int8::pg_catalog.oid

-- name: find_load
SELECT l.id, l.size_bytes, l.modified_ns, l.fingerprint, l.options, l.state, l.row_count, l.inserted, l.updated,
  l.rejected, l.parts
FROM pgscale.load l
WHERE l.table_oid = %(oid)s::pg_catalog.int8 AND l.source = %(source)s::pg_catalog.text
ORDER BY l.id DESC

-- name: insert_load
INSERT INTO pgscale.load (table_oid, source, size_bytes, modified_ns, fingerprint, options)
VALUES (%(oid)s::pg_catalog.int8, %(source)s::pg_catalog.text, %(size)s::pg_catalog.int8,
  %(modified)s::pg_catalog.int8, %(fingerprint)s::pg_catalog.text, %(options)s::pg_catalog.text)
RETURNING id

-- name: delete_load
DELETE FROM pgscale.load WHERE id = %(load_id)s::pg_catalog.int8

-- name: forget_old_loads
DELETE FROM pgscale.load l WHERE l.state = 'done' AND l.ended_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => 30)

-- name: forget_old_witnesses
DELETE FROM pgscale.load_witness w WHERE NOT EXISTS (SELECT FROM pgscale.load l WHERE l.id = w.load_id)

-- name: read_parts
SELECT p.first, p.next, p.first_line, p.lines, p.crc, p.row_count, p.inserted, p.updated, p.rejected
FROM pgscale.load_part p WHERE p.load_id = %(load_id)s::pg_catalog.int8 ORDER BY p.first

-- name: insert_part
INSERT INTO pgscale.load_part (load_id, first, next, first_line, lines, crc, row_count, inserted, updated, rejected)
VALUES (%(load_id)s::pg_catalog.int8, %(first)s::pg_catalog.int8, %(next)s::pg_catalog.int8,
  %(first_line)s::pg_catalog.int8, %(lines)s::pg_catalog.int8, %(crc)s::pg_catalog.int8,
  %(rows)s::pg_catalog.int8, %(inserted)s::pg_catalog.int8, %(updated)s::pg_catalog.int8,
  %(rejected)s::pg_catalog.int8)

-- name: finish_load
UPDATE pgscale.load SET state = 'done', ended_at = pg_catalog.clock_timestamp(),
  row_count = %(rows)s::pg_catalog.int8, inserted = %(inserted)s::pg_catalog.int8,
  updated = %(updated)s::pg_catalog.int8, rejected = %(rejected)s::pg_catalog.int8,
  parts = %(parts)s::pg_catalog.int8
WHERE id = %(load_id)s::pg_catalog.int8

-- name: delete_parts
-- Not those of standard input: what is given again has only them to be compared with.
DELETE FROM pgscale.load_part p USING pgscale.load l
WHERE p.load_id = %(load_id)s::pg_catalog.int8 AND l.id = p.load_id AND l.source <> '-'

-- name: insert_witness
INSERT INTO pgscale.load_witness (load_id) VALUES (%(load_id)s::pg_catalog.int8) ON CONFLICT DO NOTHING

-- name: has_witness
SELECT EXISTS (SELECT FROM pgscale.load_witness w WHERE w.load_id = %(load_id)s::pg_catalog.int8)

-- name: try_own
SELECT pg_catalog.pg_try_advisory_lock(1885827470, (%(load_id)s::pg_catalog.int8 %% 2147483647)::pg_catalog.int4)

-- name: lock_work
SELECT pg_catalog.pg_advisory_lock_shared(1885827471, (%(load_id)s::pg_catalog.int8 %% 2147483647)::pg_catalog.int4)

-- name: wait_for_orphans
SELECT pg_catalog.pg_advisory_xact_lock(1885827471, (%(load_id)s::pg_catalog.int8 %% 2147483647)::pg_catalog.int4)
