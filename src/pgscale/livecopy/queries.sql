-- name: pressure
SELECT
  (SELECT pg_catalog.count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
   WHERE l.locktype = 'relation' AND NOT l.granted AND l.relation = %(oid)s::int8::oid)::int4 AS waiting_lock,
  COALESCE((SELECT pg_catalog.max(EXTRACT(EPOCH FROM r.replay_lag))
   FROM pg_catalog.pg_stat_replication r WHERE r.application_name NOT LIKE 'pg_basebackup%%'), 0)::float8 AS replica_lag_s,
  COALESCE((SELECT pg_catalog.max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn))
   FROM pg_catalog.pg_replication_slots s WHERE NOT pg_catalog.pg_is_in_recovery()), 0)::float8 AS slot_retained_bytes,
  COALESCE((SELECT pg_catalog.max(pg_catalog.age(a.backend_xmin)) FROM pg_catalog.pg_stat_activity a), 0)::int8 AS oldest_xmin_age;
