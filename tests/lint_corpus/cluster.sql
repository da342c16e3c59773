-- expect: table.rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
CLUSTER orders USING orders_created_at;
