-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
SET timezone = 'UTC';
ALTER TABLE orders ALTER COLUMN paid_at TYPE timestamptz;
