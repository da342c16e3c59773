-- expect: column.type
-- locks: ACCESS EXCLUSIVE orders scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ALTER COLUMN code TYPE varchar(8) COLLATE "C";
