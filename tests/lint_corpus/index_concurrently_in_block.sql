-- expect: transaction.not_allowed
-- locks: SHARE UPDATE EXCLUSIVE orders built_indexes
SET lock_timeout = '2s';
BEGIN;
CREATE INDEX CONCURRENTLY orders_customer ON orders (customer_id);
COMMIT;
