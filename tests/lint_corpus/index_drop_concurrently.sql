-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders
SET lock_timeout = '2s';
DROP INDEX CONCURRENTLY IF EXISTS orders_note;
