-- expect: table.truncate
-- locks: ACCESS EXCLUSIVE customers rewritten scanned
SET lock_timeout = '2s';
TRUNCATE customers;
