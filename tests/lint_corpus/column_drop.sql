-- expect: column.drop
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders DROP COLUMN created_at;
