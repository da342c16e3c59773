-- expect: constraint.check
-- locks: ACCESS EXCLUSIVE orders scanned
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT total_positive CHECK (total >= 0);
