-- What the strategy `move` looks at beside the table itself. Only SELECTs; no lock on the table.

-- name: key_expressions
-- The parts of an index's key as SQL, each without its collation and operator class.
SELECT pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, n, false) ORDER BY n) AS expressions
FROM pg_catalog.pg_index i CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts::int4) n
WHERE i.indexrelid = %(oid)s::int8::pg_catalog.oid;

-- name: function_sources
-- Functions of the application whose text mentions the name.
SELECT pg_catalog.format('%%I.%%I', n.nspname, p.proname) AS name, p.prosrc AS source
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE l.lanname NOT IN ('c', 'internal') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pgscale%%'
  AND pg_catalog.strpos(pg_catalog.lower(p.prosrc), pg_catalog.lower(%(name)s::text)) > 0
ORDER BY 1;

-- name: replica_roles
-- Whose sessions in this database have session_replication_role = replica from the beginning; '' is everybody.
SELECT COALESCE(pg_catalog.pg_get_userbyid(NULLIF(s.setrole, 0)), '')::text
FROM pg_catalog.pg_db_role_setting s, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database() AND s.setdatabase IN (0, d.oid)
  AND 'session_replication_role=replica' = ANY (s.setconfig)
ORDER BY 1;

-- name: older_snapshots
-- Sessions whose snapshot still sees what was deleted before that transaction; VACUUM must leave it to them.
SELECT a.pid FROM pg_catalog.pg_stat_activity a
WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
  AND COALESCE(a.datname, pg_catalog.current_database()) = pg_catalog.current_database()
  AND COALESCE(a.backend_type, 'client backend') = 'client backend'
  AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age(%(xid)s::text::pg_catalog.xid)
ORDER BY a.backend_start LIMIT 3;

-- name: this_transaction
SELECT pg_catalog.pg_current_xact_id()::pg_catalog.xid::text;

-- name: set_pages_gone
INSERT INTO pgscale.chunk (run_id, phase, first_page, last_page, row_count)
VALUES (%(run_id)s::int8, 'copy', 0, %(pages)s::int8, 0)
ON CONFLICT (run_id, phase, first_page) DO UPDATE SET last_page = excluded.last_page;

-- name: indexes_of
-- The btree indexes of these tables, with their sizes; those a killed REINDEX CONCURRENTLY left behind are not valid.
SELECT n.nspname::text AS schema, i.relname::text AS name, x.indrelid::int8 AS table_oid, x.indexrelid::int8 AS oid,
  pg_catalog.pg_relation_size(i.oid)::int8 AS bytes,
  NOT x.indisvalid AND i.relname ~ '_cc(new|old)[0-9]*$' AS is_left_over
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = i.relam AND am.amname = 'btree'
JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE (tn.nspname::text, t.relname::text) IN (
  SELECT s, r FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(tables)s::text[])) u(s, r))
ORDER BY 5 DESC;

-- name: is_cutting
-- Whether that session's VACUUM is at the end of its table, or waits for the lock to cut it off.
SELECT 1 FROM pg_catalog.pg_stat_progress_vacuum v
WHERE v.pid = %(pid)s::int4 AND v.phase = 'truncating heap';
