-- expect: lock_timeout.missing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '10min';
ALTER TABLE orders ADD COLUMN remark text;
