-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
BEGIN;
SET LOCAL lock_timeout = '1s';
ALTER TABLE orders ADD COLUMN remark text;
COMMIT;
