-- What VACUUM may not remove rows past. The rules are those of ComputeXidHorizons() and
-- ReplicationSlotsComputeRequiredXmin() in PostgreSQL's sources: see doctor/checks/horizon.py.

-- name: sessions
-- Left out: VACUUMs, whose snapshots hold nothing; parallel workers, whose leader stands here; walsenders that decode
-- for a slot, which is what holds; and the session that asks.
SELECT a.pid, a.datname::text AS database, a.datname = pg_catalog.current_database() AS is_here,
  a.usename::text AS role, COALESCE(a.application_name, '') AS application, a.client_addr::text AS client,
  a.datid IS NULL AND r.pid IS NOT NULL AS is_standby,
  a.backend_xid IS NOT NULL AS has_xid,
  GREATEST(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid)) AS age_xids,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_s,
  a.backend_type IS NULL AS is_hidden,
  a.state, EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.state_change)::float8 AS state_s,
  pg_catalog.left(a.query, 1000) AS query, a.backend_start AS started_at
FROM pg_catalog.pg_stat_activity a
LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = a.pid
WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
  AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.backend_type IS DISTINCT FROM 'parallel worker'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = a.pid)
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = a.pid AND s.slot_type = 'logical');

-- name: prepared
SELECT p.gid, p.database::text AS database, p.database = pg_catalog.current_database() AS is_here,
  p.owner::text AS role, pg_catalog.age(p.transaction) AS age_xids,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - p.prepared)::float8 AS age_s
FROM pg_catalog.pg_prepared_xacts p;

-- name: slots
-- since: 170000
-- Lost slots hold nothing any more.
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.plugin::text AS plugin, s.database::text AS database,
  s.active AS is_active, s.temporary AS is_temporary, s.active_pid AS pid,
  pg_catalog.age(s.xmin) AS xmin_age_xids, pg_catalog.age(s.catalog_xmin) AS catalog_xmin_age_xids,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - s.inactive_since)::float8 AS inactive_s,
  r.application_name AS application, r.client_addr::text AS client
FROM pg_catalog.pg_replication_slots s
LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
WHERE (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL) AND s.wal_status IS DISTINCT FROM 'lost';

-- name: slots
-- until: 170000
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.plugin::text AS plugin, s.database::text AS database,
  s.active AS is_active, s.temporary AS is_temporary, s.active_pid AS pid,
  pg_catalog.age(s.xmin) AS xmin_age_xids, pg_catalog.age(s.catalog_xmin) AS catalog_xmin_age_xids,
  NULL::float8 AS inactive_s,
  r.application_name AS application, r.client_addr::text AS client
FROM pg_catalog.pg_replication_slots s
LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
WHERE (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL) AND s.wal_status IS DISTINCT FROM 'lost';

-- name: dead_rows
-- As pg_stat_all_tables.n_dead_tup, without its join with every index. 16384 is the first OID that initdb does not give.
SELECT t.is_catalog, t.name, t.dead_rows, t.all_dead_rows
FROM (
  SELECT c.oid < 16384 AS is_catalog, c.oid::pg_catalog.regclass::text AS name, d.dead_rows,
    pg_catalog.sum(d.dead_rows) OVER (PARTITION BY c.oid < 16384)::int8 AS all_dead_rows,
    pg_catalog.row_number() OVER (PARTITION BY c.oid < 16384 ORDER BY d.dead_rows DESC, c.oid) AS place
  FROM pg_catalog.pg_class c, LATERAL (SELECT pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead_rows) d
  WHERE c.relkind IN ('r', 'm') AND d.dead_rows > 0
) t
WHERE t.place <= 3
ORDER BY t.is_catalog, t.place;

-- name: transaction_ids
-- The next one, 64 bits wide; kept from run to run it tells when an old one was given.
SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8 AS next_xid;
