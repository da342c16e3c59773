-- expect: statement.failed
-- locks: none
SET lock_timeout = '2s';
ALTER TABLE nowhere ADD COLUMN a int;
