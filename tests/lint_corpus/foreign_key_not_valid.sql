-- expect: nothing
-- locks: SHARE ROW EXCLUSIVE customers; SHARE ROW EXCLUSIVE orders
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customers NOT VALID;
