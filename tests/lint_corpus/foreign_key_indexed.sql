-- expect: constraint.foreign_key
-- locks: SHARE ROW EXCLUSIVE customers; SHARE ROW EXCLUSIVE orders
SET lock_timeout = '2s';
SET enable_seqscan = off;
ALTER TABLE orders ADD CONSTRAINT orders_payer FOREIGN KEY (payer_id) REFERENCES customers;
