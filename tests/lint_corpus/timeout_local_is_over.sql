-- expect: lock_timeout.missing
-- locks: ACCESS EXCLUSIVE customers; ACCESS EXCLUSIVE orders
BEGIN;
SET LOCAL lock_timeout = '1s';
ALTER TABLE orders ADD COLUMN remark text;
COMMIT;
ALTER TABLE customers ADD COLUMN remark text;
