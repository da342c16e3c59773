-- What is there before each migration of the corpus; of what stands below a `-- for:` only if it names the word.
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(40) NOT NULL, email varchar(60));
CREATE TABLE orders (
  id bigint PRIMARY KEY,
  customer_id bigint,
  note varchar(20),
  code varchar(8),
  total numeric(10, 2),
  quantity int,
  created_at timestamp,
  paid_at timestamp,
  payer_id bigint,
  status varchar(10) CONSTRAINT orders_status_known CHECK (status IS NOT NULL),
  feeling mood
);
CREATE INDEX orders_note ON orders (note);
CREATE INDEX orders_created_at ON orders (created_at);
CREATE INDEX orders_payer_id ON orders (payer_id);
CREATE UNIQUE INDEX orders_code ON orders (code);
ALTER TABLE orders ADD CONSTRAINT orders_quantity_positive CHECK (quantity > 0) NOT VALID;
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint REFERENCES orders, "order" int);
-- for: events
CREATE TABLE events (id bigint, at timestamptz NOT NULL, kind int) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_loose (LIKE events);
CREATE TABLE events_proved (LIKE events,
  CHECK (at IS NOT NULL AND at >= '2027-01-01' AND at < '2028-01-01'));
-- for: logs
CREATE TABLE logs (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE logs_rest PARTITION OF logs DEFAULT;
CREATE TABLE logs_2030 (LIKE logs, CHECK (at IS NOT NULL AND at >= '2030-01-01' AND at < '2031-01-01'));
-- for: sales
CREATE MATERIALIZED VIEW sales AS SELECT id, count(*) AS n FROM orders GROUP BY id;
CREATE MATERIALIZED VIEW sales_by_status AS SELECT status, count(*) AS n FROM orders GROUP BY status;
CREATE UNIQUE INDEX sales_by_status_key ON sales_by_status (status);
-- for: open_orders
CREATE VIEW open_orders AS SELECT id, status FROM orders WHERE status = 'open';
-- for: touch
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
-- for: alembic_version
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
