-- expect: table.rename
-- locks: ACCESS EXCLUSIVE customers
SET lock_timeout = '2s';
CREATE SCHEMA app;
ALTER TABLE customers SET SCHEMA app;
