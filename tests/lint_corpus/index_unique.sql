-- expect: index.not_concurrent
-- locks: SHARE orders scanned built_indexes
SET lock_timeout = '2s';
CREATE UNIQUE INDEX IF NOT EXISTS orders_pair ON orders (customer_id, created_at) WHERE total > 0;
