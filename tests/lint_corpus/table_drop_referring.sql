-- expect: table.drop
-- locks: ACCESS EXCLUSIVE items; ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
DROP TABLE items;
