-- Standbys as their primary sees them, and as they see themselves.

-- name: standbys
SELECT r.pid, COALESCE(r.application_name, '') AS application, r.client_addr::text AS client, r.state,
  r.sync_state, s.slot_name::text AS slot, s.slot_type = 'logical' AS is_logical,
  pg_catalog.pg_wal_lsn_diff(n.lsn, r.sent_lsn)::int8 AS unsent_bytes,
  pg_catalog.pg_wal_lsn_diff(n.lsn, r.flush_lsn)::int8 AS unflushed_bytes,
  pg_catalog.pg_wal_lsn_diff(n.lsn, COALESCE(r.replay_lsn, r.flush_lsn))::int8 AS behind_bytes,
  EXTRACT(EPOCH FROM COALESCE(r.replay_lag, r.flush_lag))::float8 AS behind_s,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - r.reply_time)::float8 AS replied_ago_s
FROM pg_catalog.pg_stat_replication r
LEFT JOIN pg_catalog.pg_replication_slots s ON s.active_pid = r.pid
CROSS JOIN (
  SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) n
WHERE r.state IS DISTINCT FROM 'backup';

-- name: unused_slots
-- Kept from run to run, they tell since when nobody uses a slot, which PostgreSQL tells from 17 on.
SELECT s.slot_name::text AS key, 1 AS unused FROM pg_catalog.pg_replication_slots s
WHERE s.slot_type = 'physical' AND NOT s.active AND NOT s.temporary;

-- name: replay
-- Of a standby.
SELECT pg_catalog.pg_get_wal_replay_pause_state() AS pause_state,
  EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_receiver() w WHERE w.pid IS NOT NULL) AS is_receiving,
  pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::int8
    AS unreplayed_bytes,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8
    AS replayed_until_s;

-- name: conflicts
-- Queries of this database that replay has cancelled.
SELECT c.confl_tablespace AS tablespace, c.confl_lock AS lock, c.confl_snapshot AS snapshot,
  c.confl_bufferpin AS bufferpin, c.confl_deadlock AS deadlock,
  pg_catalog.pg_stat_get_db_stat_reset_time(c.datid) AS reset_at
FROM pg_catalog.pg_stat_database_conflicts c WHERE c.datname = pg_catalog.current_database();
