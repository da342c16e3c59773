-- expect: nothing
-- locks: SHARE ROW EXCLUSIVE orders
SET lock_timeout = '2s';
CREATE TABLE returns (id bigint PRIMARY KEY, order_id bigint REFERENCES orders);
