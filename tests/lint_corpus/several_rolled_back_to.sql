-- expect: nothing
-- locks: ACCESS EXCLUSIVE customers; ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
BEGIN;
SAVEPOINT a;
ALTER TABLE orders ADD COLUMN a int;
ROLLBACK TO a;
ALTER TABLE customers ADD COLUMN a int;
COMMIT;
