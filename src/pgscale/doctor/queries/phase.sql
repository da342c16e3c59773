-- How much there is, how much happens, and what shape the tables have.

-- name: activity
SELECT d.xact_commit + d.xact_rollback AS transactions, d.blks_hit AS hits, d.blks_read AS misses,
  d.tup_returned AS returned, d.tup_fetched AS fetched, d.tup_inserted AS inserted, d.tup_updated AS updated,
  d.tup_deleted AS deleted, d.stats_reset AS reset_at
FROM pg_catalog.pg_stat_database d WHERE d.datname = pg_catalog.current_database();

-- name: tables
-- Rows and pages are those of the last VACUUM or ANALYZE: functions that look at the files wait behind ACCESS EXCLUSIVE.
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relispartition AS is_partition,
  CASE WHEN c.reltuples >= 0 THEN c.reltuples::float8 ELSE pg_catalog.pg_stat_get_live_tuples(c.oid)::float8 END AS rows,
  (c.relpages + COALESCE(t.relpages, 0))::int8 AS pages, COALESCE(x.pages, 0)::int8 AS index_pages,
  pg_catalog.pg_stat_get_numscans(c.oid)::int8 AS seq_scans,
  pg_catalog.pg_stat_get_tuples_returned(c.oid)::int8 AS seq_rows,
  COALESCE(x.scans, 0)::int8 AS index_scans,
  pg_catalog.pg_stat_get_tuples_inserted(c.oid)::int8 AS inserted,
  pg_catalog.pg_stat_get_tuples_updated(c.oid)::int8 AS updated,
  pg_catalog.pg_stat_get_tuples_deleted(c.oid)::int8 AS deleted,
  k.columns::int4 AS columns, k.documents::int4 AS documents, k.times::int4 AS times, k.blobs::int4 AS blobs,
  COALESCE(f.most_to_one, 0)::int4 AS most_keys_to_one, COALESCE(f.to_itself, 0)::int4 AS keys_to_itself,
  COALESCE(p.key_columns, 0)::int4 AS key_columns
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
LEFT JOIN LATERAL (
  SELECT pg_catalog.sum(xc.relpages) AS pages, pg_catalog.sum(pg_catalog.pg_stat_get_numscans(i.indexrelid)) AS scans
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class xc ON xc.oid = i.indexrelid WHERE i.indrelid = c.oid
) x ON true
CROSS JOIN LATERAL (
  SELECT pg_catalog.count(*) AS columns,
    pg_catalog.count(*) FILTER (WHERE y.typname IN ('json', 'jsonb', 'xml', 'hstore')) AS documents,
    pg_catalog.count(*) FILTER (WHERE y.typname IN ('date', 'timestamp', 'timestamptz')) AS times,
    pg_catalog.count(*) FILTER (WHERE y.typname IN ('bytea', 'text', 'json', 'jsonb')) AS blobs
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) k
LEFT JOIN LATERAL (
  SELECT pg_catalog.max(each.count) AS most_to_one,
    pg_catalog.max(each.count) FILTER (WHERE each.confrelid = c.oid) AS to_itself
  FROM (SELECT o.confrelid, pg_catalog.count(*) AS count FROM pg_catalog.pg_constraint o
        WHERE o.conrelid = c.oid AND o.contype = 'f' AND o.conparentid = 0 GROUP BY o.confrelid) each
) f ON true
LEFT JOIN LATERAL (
  SELECT pg_catalog.cardinality(o.conkey) AS key_columns FROM pg_catalog.pg_constraint o
  WHERE o.conrelid = c.oid AND o.contype = 'p'
) p ON true
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgscale') AND n.nspname NOT LIKE 'pg\_toast%';

-- name: surroundings
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c WHERE c.relkind = 'p')::int4 AS partitioned_tables,
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_foreign_server)::int4 AS foreign_servers,
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r
   WHERE COALESCE(r.state, 'streaming') IN ('streaming', 'catchup'))::int4 AS replicas;
