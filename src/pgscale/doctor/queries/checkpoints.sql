-- Checkpoints, the WAL that forces them, and what keeps WAL from being removed.

-- name: checkpoints
-- since: 170000
-- Timed ones are counted also when nothing was written since the last, and so nothing had to be done.
SELECT c.num_timed AS timed, c.num_requested AS requested, c.buffers_written AS buffers,
  c.write_time / 1000 AS write_s, c.sync_time / 1000 AS sync_s, c.stats_reset AS reset_at
FROM pg_catalog.pg_stat_checkpointer c;

-- name: checkpoints
-- until: 170000
SELECT b.checkpoints_timed AS timed, b.checkpoints_req AS requested, b.buffers_checkpoint AS buffers,
  b.checkpoint_write_time / 1000 AS write_s, b.checkpoint_sync_time / 1000 AS sync_s, b.stats_reset AS reset_at
FROM pg_catalog.pg_stat_bgwriter b;

-- name: wal
SELECT w.wal_bytes::int8 AS bytes, w.wal_fpi AS full_pages, w.stats_reset AS reset_at FROM pg_catalog.pg_stat_wal w;

-- name: wal_directory
SELECT pg_catalog.count(*)::int8 AS files, COALESCE(pg_catalog.sum(f.size), 0)::int8 AS bytes
FROM pg_catalog.pg_ls_waldir() f;

-- name: archiver
SELECT a.archived_count AS archived, a.failed_count AS failed, a.last_archived_wal, a.last_failed_wal,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.last_archived_time)::float8 AS archived_ago_s,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.last_failed_time)::float8 AS failed_ago_s
FROM pg_catalog.pg_stat_archiver a;

-- name: waiting
-- Files that wait for the archiver.
SELECT pg_catalog.count(*)::int8 AS files,
  pg_catalog.regexp_replace(pg_catalog.min(f.name), '[.]ready$', '') AS first,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - pg_catalog.min(f.modification))::float8 AS oldest_s
FROM pg_catalog.pg_ls_archive_statusdir() f WHERE f.name LIKE '%.ready';

-- name: slots
-- since: 170000
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.plugin::text AS plugin, s.database::text AS database,
  s.active AS is_active, s.wal_status, s.safe_wal_size AS safe_bytes,
  pg_catalog.pg_wal_lsn_diff(
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
      ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::int8 AS retained_bytes,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - s.inactive_since)::float8 AS inactive_s,
  s.invalidation_reason AS invalid_because, r.application_name AS application, r.client_addr::text AS client
FROM pg_catalog.pg_replication_slots s
LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
WHERE NOT s.temporary;

-- name: slots
-- until: 170000
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.plugin::text AS plugin, s.database::text AS database,
  s.active AS is_active, s.wal_status, s.safe_wal_size AS safe_bytes,
  pg_catalog.pg_wal_lsn_diff(
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
      ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::int8 AS retained_bytes,
  NULL::float8 AS inactive_s, NULL::text AS invalid_because,
  r.application_name AS application, r.client_addr::text AS client
FROM pg_catalog.pg_replication_slots s
LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
WHERE NOT s.temporary;
