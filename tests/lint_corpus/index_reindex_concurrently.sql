-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders built_indexes
SET lock_timeout = '2s';
REINDEX INDEX CONCURRENTLY orders_note;
