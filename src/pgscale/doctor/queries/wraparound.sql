-- Ages of what is not frozen yet, in transaction ids and in multixact ids.

-- name: multixacts
-- The next one, as it stands: it begins anew after 4 billion.
SELECT (4294967296 + pg_catalog.mxid_age('1'::pg_catalog.xid)::int8 + 1) % 4294967296 AS next_mxid;

-- name: databases
SELECT d.datname::text AS name, d.datname = pg_catalog.current_database() AS is_here, d.datallowconn AS may_connect,
  pg_catalog.age(d.datfrozenxid) AS age_xids, pg_catalog.mxid_age(d.datminmxid) AS age_mxids
FROM pg_catalog.pg_database d;

-- name: tables
-- Those of this database that are furthest past where autovacuum begins to freeze whatever else there is to do. It goes
-- by the smaller of the table's own setting and the server's.
SELECT t.oid::int8 AS oid, t.name, t.owner, t.owner_oid, t.is_temporary, t.pages,
  t.age_xids, t.most_xids, t.age_mxids, t.most_mxids, p.pid AS vacuumed_by,
  CASE WHEN p.heap_blks_total > 0 THEN p.heap_blks_scanned::float8 / p.heap_blks_total END AS scanned_share
FROM (
  SELECT c.oid, c.oid::pg_catalog.regclass::text AS name, o.oid::pg_catalog.regclass::text AS owner,
    COALESCE(o.oid, c.oid)::int8 AS owner_oid, c.relpersistence = 't' AS is_temporary, c.relpages AS pages,
    pg_catalog.age(c.relfrozenxid) AS age_xids, pg_catalog.mxid_age(c.relminmxid) AS age_mxids,
    LEAST(pg_catalog.current_setting('autovacuum_freeze_max_age')::int8, (
      SELECT v.option_value::int8 FROM pg_catalog.pg_options_to_table(c.reloptions) v
      WHERE v.option_name = 'autovacuum_freeze_max_age')) AS most_xids,
    LEAST(pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::int8, (
      SELECT v.option_value::int8 FROM pg_catalog.pg_options_to_table(c.reloptions) v
      WHERE v.option_name = 'autovacuum_multixact_freeze_max_age')) AS most_mxids
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_class o ON c.relkind = 't' AND o.reltoastrelid = c.oid
  WHERE c.relkind IN ('r', 'm', 't') AND c.relfrozenxid <> '0'::pg_catalog.xid
) t
LEFT JOIN pg_catalog.pg_stat_progress_vacuum p ON p.relid = t.oid AND p.datname = pg_catalog.current_database()
ORDER BY GREATEST(t.age_xids / GREATEST(t.most_xids, 1)::float8, t.age_mxids / GREATEST(t.most_mxids, 1)::float8) DESC,
  t.pages DESC
LIMIT 50;
