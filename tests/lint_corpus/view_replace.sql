-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
CREATE OR REPLACE VIEW open_orders AS SELECT id, status FROM orders WHERE status IN ('open', 'new');
