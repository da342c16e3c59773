-- expect: statement.failed
-- locks: none
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN IF EXISTS a int;
