-- expect: constraint.foreign_key
-- locks: SHARE ROW EXCLUSIVE customers; SHARE ROW EXCLUSIVE orders scanned
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customers;
