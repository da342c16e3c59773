-- name: read_moment
SELECT pg_catalog.clock_timestamp(), pg_catalog.current_database()::text, CURRENT_USER::text

-- name: read_locks
-- Every lock that somebody waits for, those held or asked for on the same objects, and the rows that waiters have
-- locked: a waiter for a transaction has the row in question. SIReadLock never makes anybody wait.
-- pg_blocking_pids() locks part of the lock table: it is asked for waiters only. A prepared transaction has no pid; which
-- one it is tells the lock on its own transaction id that its virtual transaction holds.
WITH lock AS MATERIALIZED (
  SELECT l.* FROM pg_catalog.pg_locks l WHERE l.mode <> 'SIReadLock' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
), waiting AS MATERIALIZED (
  SELECT * FROM lock WHERE NOT granted
), prepared AS MATERIALIZED (
  SELECT l.virtualtransaction, p.transaction::text::int8 AS transaction
  FROM lock l JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid
  WHERE l.pid IS NULL AND l.locktype = 'transactionid' AND l.granted
)
SELECT l.locktype, CASE WHEN l.database <> 0 THEN COALESCE(d.datname::text, l.database::text) END,
       l.relation::int8, l.page, l.tuple::int4, l.virtualxid, l.transactionid::text::int8,
       l.classid::int8, l.objid::int8, l.objsubid::int4,
       l.mode, l.granted, l.pid,
       CASE WHEN l.pid IS NULL THEN p.transaction END,
       l.waitstart,
       CASE WHEN l.waitstart IS NOT NULL THEN
         GREATEST(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - l.waitstart), 0)::float8 END,
       CASE WHEN NOT l.granted THEN pg_catalog.pg_blocking_pids(l.pid) END
FROM lock l LEFT JOIN pg_catalog.pg_database d ON d.oid = l.database
LEFT JOIN prepared p ON p.virtualtransaction = l.virtualtransaction
WHERE NOT l.granted
   OR (l.locktype = 'tuple' AND l.pid IN (SELECT w.pid FROM waiting w))
   OR (l.locktype, COALESCE(l.database, 0), COALESCE(l.relation, 0), COALESCE(l.page, -1), COALESCE(l.tuple, -1),
       COALESCE(l.virtualxid, ''), COALESCE(l.transactionid::text, ''), COALESCE(l.classid, 0), COALESCE(l.objid, 0),
       COALESCE(l.objsubid, -1)) IN (
     SELECT w.locktype, COALESCE(w.database, 0), COALESCE(w.relation, 0), COALESCE(w.page, -1), COALESCE(w.tuple, -1),
            COALESCE(w.virtualxid, ''), COALESCE(w.transactionid::text, ''), COALESCE(w.classid, 0),
            COALESCE(w.objid, 0), COALESCE(w.objsubid, -1)
     FROM waiting w)

-- name: read_backends
-- Some backends and the leaders of those that are parallel workers. GREATEST would make 0 of NULL.
-- backend_type is NULL where the role may not look.
WITH activity AS MATERIALIZED (
  SELECT a.* FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid()
)
SELECT a.pid, a.usename::text, a.datname::text, COALESCE(a.application_name, ''), a.backend_type, a.backend_start,
       CASE WHEN a.backend_type = 'parallel worker' THEN a.leader_pid END, a.xact_start, a.state,
       CASE WHEN a.state_change IS NOT NULL THEN
         GREATEST(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.state_change), 0)::float8 END,
       CASE WHEN a.xact_start IS NOT NULL THEN
         GREATEST(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::float8 END,
       COALESCE(a.query, '')
FROM activity a
WHERE a.pid = ANY (%(pids)s)
   OR a.pid IN (SELECT w.leader_pid FROM activity w WHERE w.pid = ANY (%(pids)s) AND w.backend_type = 'parallel worker')

-- name: read_prepared
SELECT p.gid, p.transaction::text::int8,
       GREATEST(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - p.prepared), 0)::float8,
       COALESCE(p.owner::text, ''), COALESCE(p.database::text, '')
FROM pg_catalog.pg_prepared_xacts p

-- name: read_relations
SELECT c.oid::int8, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(oids)s::int8[]::oid[])

-- name: read_objects
-- pg_describe_object() gives NULL for what is not (yet) there.
SELECT o.class_id, o.object_id, pg_catalog.pg_describe_object(o.class_id::oid, o.object_id::oid, 0)
FROM unnest(%(classes)s::int8[], %(objects)s::int8[]) o (class_id, object_id)

-- name: read_rights
-- What this role may signal. superuser: of the target's role. A member of the role that a process belongs to may signal
-- it (has_privs_of_role(), which is what USAGE asks for).
SELECT me.rolsuper, COALESCE(pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'), false),
       COALESCE(pg_catalog.pg_has_role(a.usesysid, 'USAGE'), false), COALESCE(r.rolsuper, false),
       COALESCE((SELECT pg_catalog.pg_has_role(s.oid, 'USAGE') FROM pg_catalog.pg_roles s
                 WHERE s.rolname = 'pg_signal_autovacuum_worker'), false)
FROM pg_catalog.pg_roles me
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = %(pid)s
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE me.rolname = CURRENT_USER

-- name: cancel
-- A pid that another session has got meanwhile, the session's next transaction, or one that has no statement to cancel
-- any more, is left alone: looked at and signalled by one statement.
SELECT pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %(pid)s AND a.backend_start = %(started)s
  AND a.xact_start IS NOT DISTINCT FROM %(transaction_started)s::timestamptz
  AND COALESCE(a.state, '') NOT LIKE 'idle%%'

-- name: terminate
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %(pid)s AND a.backend_start = %(started)s
  AND a.xact_start IS NOT DISTINCT FROM %(transaction_started)s::timestamptz
