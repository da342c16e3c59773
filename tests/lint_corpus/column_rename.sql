-- expect: column.rename
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders RENAME COLUMN note TO remark;
