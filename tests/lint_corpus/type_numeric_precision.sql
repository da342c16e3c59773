-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN total TYPE numeric(14, 2);
