-- name: exists
SELECT pg_catalog.to_regclass('pgscale.run') IS NOT NULL;

-- name: is_current
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = pg_catalog.to_regclass('pgscale.run') AND a.attname = 'eta_most_s');

-- name: select_runs
SELECT r.id AS run_id, r.table_oid, r.table_schema, r.table_name, r.strategy, r.state, r.phase, r.plan::text AS plan,
  r.request, r.note, r.new_oid, r.new_fingerprint, r.rows_copied,
  COALESCE((SELECT a.row_count FROM pgscale.applied a WHERE a.run_id = r.id), 0) AS rows_applied, r.rows_checked, r.mismatches, r.attempts, r.blocked_ms::float8 AS blocked_ms,
  r.busy_s::float8 AS busy_s, r.started_at, r.heartbeat_at,
  EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - r.heartbeat_at)::float8 AS heartbeat_age_s, r.owner_pid,
  eta.eta_least_s, eta.eta_most_s
FROM pgscale.run r
-- A ledger of an older version has no such columns, and the names mean these.
CROSS JOIN (SELECT NULL::float8 AS eta_least_s, NULL::float8 AS eta_most_s) lacking
CROSS JOIN LATERAL (SELECT eta_least_s, eta_most_s FROM pgscale.run q WHERE q.id = r.id) eta
-- A partition's run is found by its parent, too.
WHERE %(oid)s::int8 IS NULL OR r.table_oid = %(oid)s::int8 OR r.new_oid = %(oid)s::int8
  OR (r.plan ->> 'parent_oid')::int8 = %(oid)s::int8
ORDER BY r.id;

-- name: insert_run
INSERT INTO pgscale.run (table_oid, table_schema, table_name, strategy, state, phase, plan)
VALUES (%(table_oid)s::int8, %(schema)s::text, %(name)s::text, %(strategy)s::text, 'running', 'prepare', %(plan)s::jsonb)
RETURNING id;

-- name: set_state
UPDATE pgscale.run SET state = %(state)s::text, note = %(note)s::text, request = NULL WHERE id = %(run_id)s::int8;

-- name: set_cut_over
-- No row where somebody asked for an abort that the owner has not heard of yet: then that counts.
UPDATE pgscale.run SET state = 'cut-over', note = '', request = NULL
WHERE id = %(run_id)s::int8 AND request IS DISTINCT FROM 'abort'
RETURNING true;

-- name: set_phase
UPDATE pgscale.run SET phase = %(phase)s::text WHERE id = %(run_id)s::int8;

-- name: set_request
UPDATE pgscale.run SET request = %(request)s::text WHERE id = %(run_id)s::int8;

-- name: set_new_oid
UPDATE pgscale.run SET new_oid = pg_catalog.to_regclass(%(name)s::text)::oid::int8 WHERE id = %(run_id)s::int8;

-- name: heartbeat
UPDATE pgscale.run SET heartbeat_at = pg_catalog.clock_timestamp(), owner_pid = pg_catalog.pg_backend_pid(),
  busy_s = busy_s + %(busy_s)s::float8, note = %(note)s::text,
  eta_least_s = %(eta_least_s)s::float8, eta_most_s = %(eta_most_s)s::float8
WHERE id = %(run_id)s::int8 RETURNING request;

-- name: add_applied
INSERT INTO pgscale.applied AS a (run_id, row_count) VALUES (%(run_id)s::int8, %(rows)s::int8)
ON CONFLICT (run_id) DO UPDATE SET row_count = a.row_count + excluded.row_count;

-- name: set_parity
UPDATE pgscale.run SET rows_checked = %(rows)s::int8, mismatches = %(mismatches)s::int8 WHERE id = %(run_id)s::int8;

-- name: add_attempt
UPDATE pgscale.run SET attempts = attempts + 1,
  blocked_ms = GREATEST(blocked_ms, %(blocked_ms)s::float8) WHERE id = %(run_id)s::int8;

-- name: delete_run
DELETE FROM pgscale.run WHERE id = %(run_id)s::int8;

-- name: done_steps
SELECT step_id FROM pgscale.step WHERE run_id = %(run_id)s::int8;

-- name: mark_step
INSERT INTO pgscale.step (run_id, step_id, duration_s) VALUES (%(run_id)s::int8, %(step_id)s::text, %(duration_s)s::float8)
ON CONFLICT (run_id, step_id) DO NOTHING;

-- name: unmark_step
DELETE FROM pgscale.step WHERE run_id = %(run_id)s::int8 AND step_id = %(step_id)s::text;

-- name: insert_chunk
INSERT INTO pgscale.chunk (run_id, phase, first_page, last_page, row_count)
VALUES (%(run_id)s::int8, %(phase)s::text, %(first)s::int8, %(last)s::int8, %(rows)s::int8)
ON CONFLICT (run_id, phase, first_page) DO NOTHING;

-- name: select_chunks
SELECT first_page, last_page, row_count FROM pgscale.chunk
WHERE run_id = %(run_id)s::int8 AND phase = %(phase)s::text ORDER BY first_page, last_page;

-- name: delete_chunks
DELETE FROM pgscale.chunk WHERE run_id = %(run_id)s::int8 AND phase LIKE %(phase)s::text;

-- name: sum_chunks
SELECT COALESCE(pg_catalog.sum(row_count), 0)::int8 FROM pgscale.chunk
WHERE run_id = %(run_id)s::int8 AND phase = %(phase)s::text;

-- name: set_rows_copied
UPDATE pgscale.run SET rows_copied = %(rows)s::int8 WHERE id = %(run_id)s::int8;

-- name: set_new_fingerprint
UPDATE pgscale.run SET new_fingerprint = %(fingerprint)s::text WHERE id = %(run_id)s::int8;

-- name: find_run_by_name
SELECT r.table_oid FROM pgscale.run r
WHERE r.table_name = (pg_catalog.parse_ident(%(name)s::text))[pg_catalog.array_length(pg_catalog.parse_ident(%(name)s::text), 1)]
  AND (pg_catalog.array_length(pg_catalog.parse_ident(%(name)s::text), 1) = 1
       OR r.table_schema = (pg_catalog.parse_ident(%(name)s::text))[1])
LIMIT 1;

-- name: find_split_by_name
-- The partition that was divided is elsewhere under its name, or another one has it.
SELECT r.table_oid FROM pgscale.run r
WHERE r.strategy = 'split' AND r.table_schema = %(schema)s::text AND r.table_name = %(name)s::text
LIMIT 1;

-- name: has_retired
SELECT pg_catalog.to_regclass('pgscale.retired') IS NOT NULL;

-- name: select_retired
SELECT leaf_oid, leaf_schema, leaf_name, low, high, promise, archive_dir, archive_format, state, file, sha256,
  row_count, fingerprint
FROM pgscale.retired WHERE table_oid = %(oid)s::int8 ORDER BY noted_at, leaf_oid;

-- name: note_retired
INSERT INTO pgscale.retired (leaf_oid, table_oid, leaf_schema, leaf_name, low, high, promise, archive_dir, archive_format)
VALUES (%(leaf_oid)s::int8, %(table_oid)s::int8, %(schema)s::text, %(name)s::text, %(low)s::text, %(high)s::text,
  %(promise)s::text, %(archive_dir)s::text, %(archive_format)s::text)
ON CONFLICT (leaf_oid) DO UPDATE SET table_oid = excluded.table_oid, leaf_schema = excluded.leaf_schema,
  leaf_name = excluded.leaf_name, low = excluded.low, high = excluded.high, promise = excluded.promise,
  archive_dir = excluded.archive_dir, archive_format = excluded.archive_format, state = 'noted', file = NULL,
  sha256 = NULL, row_count = NULL, fingerprint = NULL, noted_at = pg_catalog.clock_timestamp();

-- name: set_archived
UPDATE pgscale.retired SET state = 'archived', file = %(file)s::text, sha256 = %(sha256)s::text,
  row_count = %(rows)s::int8, fingerprint = %(fingerprint)s::text
WHERE leaf_oid = %(leaf_oid)s::int8;

-- name: forget_retired
DELETE FROM pgscale.retired WHERE leaf_oid = %(leaf_oid)s::int8;

-- name: note_again
UPDATE pgscale.retired SET state = 'noted', file = NULL, sha256 = NULL, row_count = NULL, fingerprint = NULL
WHERE leaf_oid = %(leaf_oid)s::int8;

-- name: has_rehearsals
-- Of a ledger that another role made it may be out of reach, and then it is that role's to look after.
SELECT COALESCE(pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgscale.rehearsal')::pg_catalog.oid, 'SELECT')
  AND pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgscale.rehearsal')::pg_catalog.oid, 'DELETE'), false);

-- name: note_rehearsal
INSERT INTO pgscale.rehearsal (table_oid, outcome) VALUES (%(oid)s::int8, %(outcome)s::jsonb)
ON CONFLICT (table_oid) DO UPDATE SET outcome = excluded.outcome, noted_at = pg_catalog.clock_timestamp();

-- name: select_rehearsal
SELECT outcome::text FROM pgscale.rehearsal WHERE table_oid = %(oid)s::int8;

-- name: forget_rehearsal
DELETE FROM pgscale.rehearsal WHERE table_oid = %(oid)s::int8;
