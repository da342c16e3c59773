-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders scanned
SET lock_timeout = '2s';
ALTER TABLE orders VALIDATE CONSTRAINT orders_quantity_positive;
