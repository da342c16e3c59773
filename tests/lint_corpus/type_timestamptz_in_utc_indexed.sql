-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders scanned built_indexes
SET lock_timeout = '2s';
SET timezone = 'UTC';
ALTER TABLE orders ALTER COLUMN created_at TYPE timestamptz;
