-- expect: table.truncate table.truncate
-- locks: ACCESS EXCLUSIVE items rewritten scanned built_indexes; ACCESS EXCLUSIVE orders rewritten scanned built_indexes
SET lock_timeout = '2s';
TRUNCATE orders CASCADE;
