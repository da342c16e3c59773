-- expect: table.drop
-- locks: ACCESS EXCLUSIVE customers
SET lock_timeout = '2s';
DROP TABLE customers;
