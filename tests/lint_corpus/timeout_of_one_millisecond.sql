-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders built_indexes
SET lock_timeout = '1ms';
CREATE INDEX CONCURRENTLY orders_customer ON orders (customer_id);
