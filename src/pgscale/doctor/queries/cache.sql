-- How often a page was found in shared_buffers.

-- name: database
SELECT d.blks_hit AS hits, d.blks_read AS reads, d.blk_read_time / 1000 AS read_s, d.stats_reset AS reset_at
FROM pg_catalog.pg_stat_database d WHERE d.datname = pg_catalog.current_database();

-- name: relations
-- The tables (r, m, t) and indexes (i) that were read most.
SELECT c.relkind::text || ' ' || c.oid::int8 || ' ' || c.oid::pg_catalog.regclass::text AS key, b.fetched, b.hits, t.stats_reset AS reset_at
FROM pg_catalog.pg_class c
CROSS JOIN LATERAL (
  SELECT pg_catalog.pg_stat_get_blocks_fetched(c.oid) AS fetched, pg_catalog.pg_stat_get_blocks_hit(c.oid) AS hits) b
JOIN pg_catalog.pg_stat_database t ON t.datname = pg_catalog.current_database()
WHERE c.relkind IN ('r', 'm', 't', 'i') AND b.fetched > b.hits
ORDER BY b.fetched - b.hits DESC LIMIT 50;

-- name: size
-- As of the last VACUUM or ANALYZE of each.
SELECT COALESCE(pg_catalog.sum(c.relpages), 0)::int8 AS pages FROM pg_catalog.pg_class c
WHERE c.relkind IN ('r', 'm', 't', 'i');
