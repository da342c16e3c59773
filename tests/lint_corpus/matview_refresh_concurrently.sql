-- expect: nothing
-- locks: EXCLUSIVE sales_by_status scanned
SET lock_timeout = '2s';
REFRESH MATERIALIZED VIEW CONCURRENTLY sales_by_status;
