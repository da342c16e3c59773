-- expect: nothing
-- locks: ACCESS EXCLUSIVE customers; SHARE UPDATE EXCLUSIVE customers built_indexes
SET lock_timeout = '2s';
CREATE UNIQUE INDEX CONCURRENTLY customers_email ON customers (email);
ALTER TABLE customers ADD CONSTRAINT customers_email UNIQUE USING INDEX customers_email;
