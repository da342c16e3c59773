-- expect: column.not_null
-- locks: ACCESS EXCLUSIVE items scanned
SET lock_timeout = '2s';
ALTER TABLE items ALTER COLUMN "order" SET NOT NULL;
