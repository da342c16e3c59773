-- expect: table.rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten scanned
SET lock_timeout = '2s';
CLUSTER orders USING orders_created_at;
