-- expect: column.added_not_null
-- locks: ACCESS EXCLUSIVE orders scanned
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN owner text NOT NULL;
