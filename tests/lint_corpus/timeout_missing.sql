-- expect: lock_timeout.missing
-- locks: ACCESS EXCLUSIVE orders
ALTER TABLE orders ADD COLUMN remark text;
