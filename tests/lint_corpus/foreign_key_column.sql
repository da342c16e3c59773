-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders; SHARE ROW EXCLUSIVE customers
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN agent_id bigint REFERENCES customers (id);
