-- expect: data.whole_table transaction.work_under_lock
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN remark text;
UPDATE orders SET remark = note;
COMMIT;
