-- expect: table.truncate
-- locks: ACCESS EXCLUSIVE customers rewritten scanned built_indexes
SET lock_timeout = '2s';
TRUNCATE customers;
