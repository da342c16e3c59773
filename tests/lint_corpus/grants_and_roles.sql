-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
GRANT SELECT ON orders TO reporting;
CREATE ROLE auditor;
ALTER SYSTEM SET work_mem = '64MB';
