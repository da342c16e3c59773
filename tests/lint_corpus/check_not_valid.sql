-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT total_positive CHECK (total >= 0) NOT VALID;
