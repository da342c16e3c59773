-- expect: table.rewrite
-- locks: ACCESS EXCLUSIVE orders rewritten
SET lock_timeout = '2s';
VACUUM FULL orders;
