-- expect: nothing
-- locks: ACCESS EXCLUSIVE orders; SHARE UPDATE EXCLUSIVE orders scanned
-- since: 18
-- transaction: per-statement
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT total_known NOT NULL total NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT total_known;
