-- expect: column.added_rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN number serial;
