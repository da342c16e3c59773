CREATE SCHEMA IF NOT EXISTS pgscale;
-- Rows that could not be written. `row` is JSON with tags for what JSON cannot hold; `merge` is the key and the rules of an upsert.
CREATE TABLE IF NOT EXISTS pgscale.dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  source text NOT NULL DEFAULT '',
  table_name text NOT NULL,
  row_index bigint,
  column_name text,
  sqlstate text,
  reason text NOT NULL,
  row jsonb NOT NULL,
  merge jsonb,
  tries int NOT NULL DEFAULT 0
);
