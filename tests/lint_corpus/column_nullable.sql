-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN remark text;
