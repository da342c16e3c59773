-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE orders scanned
ALTER TABLE orders VALIDATE CONSTRAINT orders_quantity_positive;
ANALYZE orders;
