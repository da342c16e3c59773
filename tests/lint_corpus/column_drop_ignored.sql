-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
-- The application has not known it since March.
-- pgscale:ignore column.drop
ALTER TABLE orders DROP COLUMN created_at;
