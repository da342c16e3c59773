-- expect: transaction.several_tables
-- locks: ACCESS EXCLUSIVE customers; ACCESS EXCLUSIVE items; ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN a int;
ALTER TABLE customers ADD COLUMN a int;
ALTER TABLE items ADD COLUMN a int;
COMMIT;
