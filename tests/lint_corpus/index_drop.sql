-- expect: index.drop_not_concurrent
-- locks: ACCESS EXCLUSIVE orders
SET lock_timeout = '2s';
DROP INDEX orders_note;
