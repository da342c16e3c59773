-- expect: transaction.not_allowed
-- locks: SHARE UPDATE EXCLUSIVE orders built_indexes
-- transaction: per-file
SET lock_timeout = '2s';
CREATE UNIQUE INDEX CONCURRENTLY orders_pair ON orders (customer_id, created_at);
