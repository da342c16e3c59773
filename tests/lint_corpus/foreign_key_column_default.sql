-- expect: constraint.foreign_key
-- locks: ACCESS EXCLUSIVE orders scanned; SHARE ROW EXCLUSIVE customers
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN agent_id bigint DEFAULT 1 REFERENCES customers (id);
