-- expect: table.rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten built_indexes
SET lock_timeout = '2s';
VACUUM FULL orders;
