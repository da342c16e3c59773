-- expect: index.reindex_not_concurrent
-- locks: SHARE orders scanned built_indexes
SET lock_timeout = '2s';
REINDEX INDEX orders_note;
