CREATE SCHEMA IF NOT EXISTS pgscale;
-- A load of a file into a table; a finished one is kept for a while, so that --resume loads nothing twice.
CREATE TABLE IF NOT EXISTS pgscale.load (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  table_oid bigint NOT NULL,
  source text NOT NULL,
  size_bytes bigint,
  modified_ns bigint,
  fingerprint text,
  options text NOT NULL,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
  row_count bigint NOT NULL DEFAULT 0,
  inserted bigint NOT NULL DEFAULT 0,
  updated bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  parts bigint NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  ended_at timestamptz
);
-- Of standard input there may be any number at once.
CREATE UNIQUE INDEX IF NOT EXISTS load_source ON pgscale.load (table_oid, source) WHERE source <> '-';
-- A part of the file that is in the table; written in the transaction that writes its rows.
CREATE TABLE IF NOT EXISTS pgscale.load_part (
  load_id bigint NOT NULL REFERENCES pgscale.load ON DELETE CASCADE,
  first bigint NOT NULL,
  next bigint NOT NULL,
  first_line bigint NOT NULL,
  lines bigint NOT NULL,
  crc bigint NOT NULL,
  row_count bigint NOT NULL,
  inserted bigint NOT NULL,
  updated bigint NOT NULL,
  rejected bigint NOT NULL,
  PRIMARY KEY (load_id, first)
);
-- An unlogged table is empty after a crash of the server, and so is this.
CREATE UNLOGGED TABLE IF NOT EXISTS pgscale.load_witness (load_id bigint PRIMARY KEY);
