-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders SET (fillfactor = 80);
