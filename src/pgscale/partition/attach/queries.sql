-- What a run of the strategy attach looks at. Only SELECTs.

-- name: now
SELECT pg_catalog.clock_timestamp();

-- name: is_past
SELECT pg_catalog.clock_timestamp() >= %(moment)s::text::timestamptz;

-- name: index_state
-- No row where there is no such index.
SELECT i.indisvalid AND i.indisready FROM pg_catalog.pg_index i
WHERE i.indexrelid = pg_catalog.to_regclass(%(name)s::text);

-- name: check_state
SELECT k.convalidated FROM pg_catalog.pg_constraint k
WHERE k.conrelid = %(oid)s::int8::pg_catalog.oid AND k.conname = %(name)s::text;

-- name: scans
-- Sequential scans of this transaction.
SELECT pg_catalog.pg_stat_get_xact_numscans(pg_catalog.to_regclass(%(name)s::text)),
  pg_catalog.current_setting('track_counts')::bool;
