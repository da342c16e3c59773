-- expect: constraint.unique
-- locks: ACCESS EXCLUSIVE customers scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE customers ADD CONSTRAINT customers_email UNIQUE (email);
