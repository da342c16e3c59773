-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders
SET lock_timeout = '2s';
REINDEX INDEX CONCURRENTLY orders_note;
