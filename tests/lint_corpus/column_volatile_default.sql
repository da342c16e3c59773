-- expect: column.added_rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten scanned
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN token uuid DEFAULT gen_random_uuid();
