-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders rewritten scanned
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN quantity TYPE bigint;
