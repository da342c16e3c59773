-- expect: nothing
-- locks: ACCESS EXCLUSIVE customers; ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN a int;
COMMIT;
BEGIN;
ALTER TABLE customers ADD COLUMN a int;
COMMIT;
