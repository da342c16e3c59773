-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC';
