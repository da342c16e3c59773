-- expect: table.rename
-- locks: ACCESS EXCLUSIVE customers
SET lock_timeout = '2s';
ALTER TABLE customers RENAME TO clients;
