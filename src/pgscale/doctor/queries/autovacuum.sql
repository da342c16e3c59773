-- What autovacuum has to do, what it may not do, and who does it.

-- name: tables
-- Tables, materialized views and TOAST tables of this database that are due, may not be vacuumed, or were never
-- analyzed; when one is due is reckoned as autovacuum does. A TOAST table without options of its own has those of its
-- table. The maximum and the share of frozen pages are there from 18 on.
SELECT t.oid::int8 AS oid, t.name, t.owner, t.is_disabled, t.rows, t.pages, t.dead_rows, t.vacuum_at,
  t.inserted_rows, t.insert_at, t.modified_rows, t.analyze_at, t.is_never_analyzed, t.vacuumed_s, t.analyzed_s,
  p.pid AS vacuumed_by
FROM (
  SELECT c.oid, c.oid::pg_catalog.regclass::text AS name, w.oid::pg_catalog.regclass::text AS owner,
    COALESCE(NOT o.enabled::bool, false) AS is_disabled, n.rows, c.relpages AS pages, s.dead_rows,
    CASE WHEN n.most >= 0 THEN LEAST(v.vacuum_at, n.most) ELSE v.vacuum_at END AS vacuum_at, s.inserted_rows,
    CASE WHEN v.insert_least >= 0 THEN v.insert_least + v.insert_scale * n.rows * CASE
      WHEN s.inserted_rows > v.insert_least AND c.relpages > 0 THEN
        1 - LEAST(1, COALESCE((pg_catalog.to_jsonb(c) ->> 'relallfrozen')::float8, 0) / c.relpages)
      ELSE 1 END END AS insert_at,
    CASE WHEN c.relkind = 't' THEN 0 ELSE s.modified_rows END AS modified_rows, v.analyze_at,
    c.relkind <> 't' AND c.oid >= 16384 AND s.analyzed = 0
      AND (c.reltuples < 0 OR s.modified_rows >= s.live_rows AND s.live_rows >= c.reltuples / 2) AS is_never_analyzed,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - s.vacuumed_at)::float8 AS vacuumed_s,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - s.analyzed_at)::float8 AS analyzed_s
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_class w ON c.relkind = 't' AND w.reltoastrelid = c.oid
  CROSS JOIN LATERAL (
    SELECT pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_enabled') AS enabled,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_threshold') AS least,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_scale_factor') AS scale,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_max_threshold') AS most,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_insert_threshold') AS insert_least,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_vacuum_insert_scale_factor') AS insert_scale,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_analyze_threshold') AS analyze_least,
      pg_catalog.max(x.option_value) FILTER (WHERE x.option_name = 'autovacuum_analyze_scale_factor') AS analyze_scale
    FROM pg_catalog.pg_options_to_table(COALESCE(c.reloptions, w.reloptions)) x) o
  CROSS JOIN LATERAL (
    SELECT GREATEST(c.reltuples, 0)::float8 AS rows,
      COALESCE(o.most, pg_catalog.current_setting('autovacuum_vacuum_max_threshold', true))::float8 AS most) n
  CROSS JOIN LATERAL (
    SELECT COALESCE(o.least, pg_catalog.current_setting('autovacuum_vacuum_threshold'))::float8
        + COALESCE(o.scale, pg_catalog.current_setting('autovacuum_vacuum_scale_factor'))::float8 * n.rows AS vacuum_at,
      COALESCE(o.insert_least, pg_catalog.current_setting('autovacuum_vacuum_insert_threshold'))::float8 AS insert_least,
      COALESCE(o.insert_scale, pg_catalog.current_setting('autovacuum_vacuum_insert_scale_factor'))::float8 AS insert_scale,
      COALESCE(o.analyze_least, pg_catalog.current_setting('autovacuum_analyze_threshold'))::float8
        + COALESCE(o.analyze_scale, pg_catalog.current_setting('autovacuum_analyze_scale_factor'))::float8 * n.rows
        AS analyze_at) v
  CROSS JOIN LATERAL (
    SELECT COALESCE(pg_catalog.pg_stat_get_dead_tuples(c.oid), 0) AS dead_rows,
      COALESCE(pg_catalog.pg_stat_get_live_tuples(c.oid), 0) AS live_rows,
      COALESCE(pg_catalog.pg_stat_get_ins_since_vacuum(c.oid), 0) AS inserted_rows,
      COALESCE(pg_catalog.pg_stat_get_mod_since_analyze(c.oid), 0) AS modified_rows,
      pg_catalog.pg_stat_get_analyze_count(c.oid) + pg_catalog.pg_stat_get_autoanalyze_count(c.oid) AS analyzed,
      GREATEST(pg_catalog.pg_stat_get_last_vacuum_time(c.oid), pg_catalog.pg_stat_get_last_autovacuum_time(c.oid))
        AS vacuumed_at,
      GREATEST(pg_catalog.pg_stat_get_last_analyze_time(c.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid))
        AS analyzed_at) s
  WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
) t
LEFT JOIN pg_catalog.pg_stat_progress_vacuum p ON p.relid = t.oid AND p.datname = pg_catalog.current_database()
WHERE t.is_disabled OR t.is_never_analyzed AND t.modified_rows > 0 OR t.dead_rows > t.vacuum_at
  OR t.inserted_rows > t.insert_at OR t.modified_rows > t.analyze_at
ORDER BY t.dead_rows + t.inserted_rows + t.modified_rows DESC
LIMIT 500;

-- name: parents
-- Partitioned tables never analyzed, with the rows in their partitions: autovacuum analyzes only those.
WITH RECURSIVE below (root, oid) AS (
  SELECT c.oid, c.oid FROM pg_catalog.pg_class c
  WHERE c.relkind = 'p' AND NOT c.relispartition AND c.reltuples < 0
    AND pg_catalog.pg_stat_get_analyze_count(c.oid) = 0
  UNION ALL
  SELECT b.root, i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid
)
SELECT b.root::int8 AS oid, b.root::pg_catalog.regclass::text AS name,
  pg_catalog.sum(CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE pg_catalog.pg_stat_get_live_tuples(c.oid) END)::float8 AS rows
FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid AND c.relkind = 'r'
GROUP BY b.root ORDER BY rows DESC LIMIT 500;

-- name: workers
-- Those of autovacuum, in all databases; what they vacuum is named for this one.
SELECT a.pid, a.datname::text AS database,
  CASE WHEN a.datname = pg_catalog.current_database() THEN p.relid::pg_catalog.regclass::text END AS "table", p.phase,
  CASE WHEN p.heap_blks_total > 0 THEN p.heap_blks_scanned::float8 / p.heap_blks_total END AS scanned_share,
  EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age_s
FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_progress_vacuum p ON p.pid = a.pid
WHERE a.backend_type = 'autovacuum worker';
