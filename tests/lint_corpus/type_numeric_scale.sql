-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN total TYPE numeric(14, 4);
