CREATE SCHEMA IF NOT EXISTS pgscale;
-- Up to where each lane of a buffer has landed. It is written by the transaction that writes the rows: a batch is in as a whole, once, or not at all.
CREATE TABLE IF NOT EXISTS pgscale.buffer_lane (
  buffer uuid NOT NULL,
  lane int NOT NULL,
  position numeric NOT NULL,
  tries int NOT NULL DEFAULT 0,
  landed bigint NOT NULL DEFAULT 0,
  dead bigint NOT NULL DEFAULT 0,
  retries bigint NOT NULL DEFAULT 0,
  rate_per_s float8 NOT NULL DEFAULT 0,
  landed_at timestamptz,
  last_error text,
  PRIMARY KEY (buffer, lane)
) WITH (fillfactor = 50);
