-- expect: table.drop
-- locks: none
SET lock_timeout = '2s';
DROP VIEW open_orders;
