-- expect: index.not_concurrent
-- locks: SHARE orders scanned built_indexes
SET lock_timeout = '2s';
CREATE INDEX orders_customer ON orders (customer_id);
