-- expect: transaction.several_tables
-- locks: ACCESS EXCLUSIVE customers; ACCESS EXCLUSIVE orders
BEGIN;
SET LOCAL lock_timeout = '2s';
SAVEPOINT a;
ALTER TABLE orders ADD COLUMN a int;
ROLLBACK TO a;
ALTER TABLE customers ADD COLUMN a int;
ALTER TABLE orders ADD COLUMN a int;
COMMIT;
