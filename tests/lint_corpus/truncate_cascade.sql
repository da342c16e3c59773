-- expect: table.truncate table.truncate
-- locks: ACCESS EXCLUSIVE items rewritten scanned; ACCESS EXCLUSIVE orders rewritten scanned
SET lock_timeout = '2s';
TRUNCATE orders CASCADE;
