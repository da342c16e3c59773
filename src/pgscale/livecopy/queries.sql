-- name: pressure
-- A table of a database made from the same template can have the same oid.
-- Who does not replay (pg_receivewal, pg_basebackup) has no replay_lsn, yet a replay_lag that grows for ever.
-- Without pg_read_all_stats the details of pg_stat_replication are NULL; the state never is to those who may see it.
SELECT
  (SELECT pg_catalog.count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
   WHERE l.locktype = 'relation' AND NOT l.granted AND l.relation = %(oid)s::int8::oid AND l.database =
     (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))::int4 AS waiting_lock,
  COALESCE((SELECT pg_catalog.max(pg_catalog.age(a.backend_xmin)) FROM pg_catalog.pg_stat_activity a), 0)::int8 AS oldest_xmin_age,
  pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0'::pg_catalog.pg_lsn)::int8 AS written_bytes,
  COALESCE((SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.application_name,
     COALESCE(EXTRACT(EPOCH FROM r.replay_lag), 0)::float8,
     pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0'::pg_catalog.pg_lsn)::int8))
   FROM pg_catalog.pg_stat_replication r WHERE r.replay_lsn IS NOT NULL), '[]'::json) AS standbys,
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r WHERE r.state IS NULL)::int4 AS hidden_standbys,
  COALESCE((SELECT pg_catalog.json_object_agg(s.slot_name,
     pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8)
   FROM pg_catalog.pg_replication_slots s
   WHERE s.restart_lsn IS NOT NULL AND s.wal_status IS DISTINCT FROM 'lost'), '{}'::json) AS slot_retained_bytes;
