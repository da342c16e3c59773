-- What maintenance must know of tables and indexes, and of the server while it works. Nothing here locks a relation.

-- name: targets
-- A TOAST table belongs to its table, an index to its own; pages of a partitioned table are those of its partitions.
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  t.oid::int8 AS table_oid, tn.nspname::text AS table_schema, t.relname::text AS table_name, c.relpages::int8 AS pages,
  CASE WHEN t.relkind = 'p' THEN (
    WITH RECURSIVE below (oid) AS (
      SELECT h.inhrelid FROM pg_catalog.pg_inherits h WHERE h.inhparent = t.oid
      UNION ALL
      SELECT h.inhrelid FROM below b JOIN pg_catalog.pg_inherits h ON h.inhparent = b.oid)
    SELECT COALESCE(pg_catalog.sum(p.relpages), 0) FROM below b JOIN pg_catalog.pg_class p ON p.oid = b.oid
  ) ELSE t.relpages END::int8 AS table_pages,
  (SELECT COALESCE(pg_catalog.sum(x.relpages), 0) FROM pg_catalog.pg_index j JOIN pg_catalog.pg_class x ON x.oid = j.indexrelid
    WHERE j.indrelid = t.oid)::int8 AS index_pages,
  COALESCE(s.relpages, 0)::int8 AS toast_pages, pg_catalog.pg_get_userbyid(t.relowner)::text AS owner,
  EXISTS (
    SELECT FROM pg_catalog.pg_locks k
    WHERE k.locktype = 'advisory' AND k.classid::int8 = %(run_lock)s::int8 AND k.objid = t.oid AND k.objsubid = 2
      AND k.granted AND k.database = d.oid) AS has_run
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_class w ON c.relkind = 't' AND w.reltoastrelid = c.oid
JOIN pg_catalog.pg_class t ON t.oid = COALESCE(i.indrelid, w.oid, c.oid)
LEFT JOIN pg_catalog.pg_class s ON s.oid = t.reltoastrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
WHERE c.oid = ANY (%(oids)s::int8[]::oid[]);

-- name: rights
-- since: 170000
-- On tables. Who owns the database may vacuum all of it but catalogs of all databases; from 17 on MAINTAIN may be granted.
SELECT t.oid::int8 AS oid,
  o.is_owner OR o.may_maintain OR NOT t.relisshared AND pg_catalog.pg_has_role(d.datdba, 'USAGE') AS may_vacuum,
  o.is_owner OR o.may_maintain AS may_reindex, o.is_owner AS may_drop,
  pg_catalog.has_schema_privilege(t.relnamespace, 'USAGE') AS may_look
FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
CROSS JOIN LATERAL (
  SELECT pg_catalog.pg_has_role(t.relowner, 'USAGE') AS is_owner,
    pg_catalog.has_table_privilege(t.oid, 'MAINTAIN') AS may_maintain) o
WHERE t.oid = ANY (%(oids)s::int8[]::oid[]);

-- name: rights
-- until: 170000
SELECT t.oid::int8 AS oid, o.is_owner OR NOT t.relisshared AND pg_catalog.pg_has_role(d.datdba, 'USAGE') AS may_vacuum,
  o.is_owner AS may_reindex, o.is_owner AS may_drop,
  pg_catalog.has_schema_privilege(t.relnamespace, 'USAGE') AS may_look
FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(t.relowner, 'USAGE') AS is_owner) o
WHERE t.oid = ANY (%(oids)s::int8[]::oid[]);

-- name: leftovers
-- Invalid indexes with the name of what REINDEX CONCURRENTLY makes, beside a valid one of the very same definition; of
-- one table, or of all. Those whose table somebody holds as whoever makes, rebuilds or drops indexes does, are in work.
SELECT c.oid::int8 AS oid, ns.nspname::text AS schema, c.relname::text AS name, i.indrelid::int8 AS table_oid,
  v.indexrelid::pg_catalog.regclass::text AS twin, c.relpages::int8 AS pages, EXISTS (
    SELECT FROM pg_catalog.pg_locks k
    WHERE k.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      AND k.relation IN (i.indrelid, c.oid) AND k.granted AND k.locktype = 'relation'
      AND k.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'AccessExclusiveLock')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = k.pid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_analyze p WHERE p.pid = k.pid)) AS is_in_work
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT o.indexrelid FROM pg_catalog.pg_index o JOIN pg_catalog.pg_class x ON x.oid = o.indexrelid
  WHERE o.indrelid = i.indrelid AND o.indexrelid <> i.indexrelid AND o.indisvalid AND o.indisready AND o.indislive
    AND x.relam = c.relam AND x.relkind = c.relkind AND o.indnatts = i.indnatts AND o.indnkeyatts = i.indnkeyatts
    AND o.indisunique = i.indisunique AND o.indkey::int2[] = i.indkey::int2[]
    AND o.indclass::oid[] = i.indclass::oid[] AND o.indcollation::oid[] = i.indcollation::oid[]
    AND o.indoption::int2[] = i.indoption::int2[]
    AND pg_catalog.to_jsonb(o) ->> 'indnullsnotdistinct' IS NOT DISTINCT FROM pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct'
    AND pg_catalog.regexp_replace(o.indpred::text, ':location -?\d+', '', 'g')
      IS NOT DISTINCT FROM pg_catalog.regexp_replace(i.indpred::text, ':location -?\d+', '', 'g')
    AND pg_catalog.regexp_replace(o.indexprs::text, ':location -?\d+', '', 'g')
      IS NOT DISTINCT FROM pg_catalog.regexp_replace(i.indexprs::text, ':location -?\d+', '', 'g')
  LIMIT 1) v
WHERE NOT i.indisvalid AND c.relkind = 'i' AND c.oid >= 16384 AND c.relname ~ '_cc(new|old)\d*$'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.conindid = c.oid)
  AND (%(table)s::int8 IS NULL OR i.indrelid = %(table)s::int8::oid)
ORDER BY ns.nspname, c.relname;

-- name: own
-- For the life of the session: as long as its statement runs, whoever began it.
SELECT pg_catalog.pg_try_advisory_lock(%(lock)s::int4, 0);

-- name: progress
SELECT p.phase, p.done, p.total FROM (
  SELECT v.pid, v.phase, v.heap_blks_scanned AS done, v.heap_blks_total AS total FROM pg_catalog.pg_stat_progress_vacuum v
  UNION ALL
  SELECT a.pid, a.phase, a.sample_blks_scanned, a.sample_blks_total FROM pg_catalog.pg_stat_progress_analyze a
  UNION ALL
  SELECT c.pid, c.phase, c.blocks_done, c.blocks_total FROM pg_catalog.pg_stat_progress_create_index c) p
WHERE p.pid = %(pid)s::int4;

-- name: busy
-- Sessions of others at work now.
SELECT pg_catalog.count(*)::int4 FROM pg_catalog.pg_stat_activity a
WHERE a.state = 'active' AND a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.application_name NOT LIKE 'pgscale/%%';

-- name: oldest
-- The oldest transaction here that REINDEX of a table would have to wait for: it has a snapshot or has written, or it
-- holds a lock on the table.
SELECT a.pid, a.usename::text AS role, EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_s
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
  AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.xact_start < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(least_s)s::float8)
  AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL OR EXISTS (
    SELECT FROM pg_catalog.pg_locks k WHERE k.pid = a.pid AND k.relation = %(table)s::int8::oid))
ORDER BY a.xact_start LIMIT 1;
