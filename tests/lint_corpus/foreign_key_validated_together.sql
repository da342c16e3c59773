-- expect: transaction.work_under_lock
-- locks: SHARE ROW EXCLUSIVE customers; SHARE ROW EXCLUSIVE orders; SHARE UPDATE EXCLUSIVE orders scanned
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customers NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_customer;
COMMIT;
