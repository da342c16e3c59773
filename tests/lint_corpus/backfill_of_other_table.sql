-- expect: transaction.work_under_lock
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN remark text;
INSERT INTO events_loose (id, at) SELECT id, created_at FROM orders;
COMMIT;
