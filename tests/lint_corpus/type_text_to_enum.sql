-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN note TYPE mood USING note::mood;
