-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
UPDATE orders SET note = 'x' WHERE id BETWEEN 1 AND 1000;
