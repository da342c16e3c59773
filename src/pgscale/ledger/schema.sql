CREATE SCHEMA IF NOT EXISTS pgscale;
CREATE TABLE IF NOT EXISTS pgscale.run (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_oid bigint NOT NULL UNIQUE,
  new_oid bigint,
  new_fingerprint text,
  table_schema text NOT NULL,
  table_name text NOT NULL,
  strategy text NOT NULL,
  state text NOT NULL,
  phase text NOT NULL,
  plan jsonb NOT NULL,
  request text,
  note text NOT NULL DEFAULT '',
  rows_copied bigint NOT NULL DEFAULT 0,
  rows_checked bigint NOT NULL DEFAULT 0,
  mismatches bigint NOT NULL DEFAULT 0,
  attempts int NOT NULL DEFAULT 0,
  blocked_ms float8 NOT NULL DEFAULT 0,
  busy_s float8 NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  heartbeat_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  owner_pid int,
  eta_least_s float8,
  eta_most_s float8
) WITH (fillfactor = 50);
-- What a ledger of an older version lacks. Looked for first: ALTER TABLE would wait for every run that is on.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
      WHERE attrelid = 'pgscale.run'::pg_catalog.regclass AND attname = 'eta_most_s') THEN
    ALTER TABLE pgscale.run ADD COLUMN IF NOT EXISTS eta_least_s float8, ADD COLUMN IF NOT EXISTS eta_most_s float8;
  END IF;
END $$;
-- Apart from the run, whose row the heartbeat updates: the applier works in REPEATABLE READ.
CREATE TABLE IF NOT EXISTS pgscale.applied (
  run_id bigint PRIMARY KEY REFERENCES pgscale.run ON DELETE CASCADE,
  row_count bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS pgscale.step (
  run_id bigint NOT NULL REFERENCES pgscale.run ON DELETE CASCADE,
  step_id text NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  duration_s float8 NOT NULL,
  PRIMARY KEY (run_id, step_id)
);
CREATE TABLE IF NOT EXISTS pgscale.chunk (
  run_id bigint NOT NULL REFERENCES pgscale.run ON DELETE CASCADE,
  phase text NOT NULL,
  first_page bigint NOT NULL,
  last_page bigint NOT NULL,
  row_count bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX IF NOT EXISTS chunk_run_phase ON pgscale.chunk (run_id, phase, first_page);
-- What was promised for a partition before it was detached; the row goes when the promise is kept.
CREATE TABLE IF NOT EXISTS pgscale.retired (
  leaf_oid bigint PRIMARY KEY,
  table_oid bigint NOT NULL,
  leaf_schema text NOT NULL,
  leaf_name text NOT NULL,
  low text NOT NULL,
  high text NOT NULL,
  promise text NOT NULL CHECK (promise IN ('archive', 'drop')),
  archive_dir text,
  archive_format text NOT NULL,
  state text NOT NULL DEFAULT 'noted' CHECK (state IN ('noted', 'archived')),
  file text,
  sha256 text,
  row_count bigint,
  fingerprint text,
  noted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- What a rehearsal of a table measured, for its plans; the row goes when the table's run is finished or taken back.
CREATE TABLE IF NOT EXISTS pgscale.rehearsal (
  table_oid bigint PRIMARY KEY,
  outcome jsonb NOT NULL,
  noted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
