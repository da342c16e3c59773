-- expect: matview.refresh
-- locks: ACCESS EXCLUSIVE sales rewritten
SET lock_timeout = '2s';
REFRESH MATERIALIZED VIEW sales;
