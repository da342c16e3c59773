-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
INSERT INTO customers (id, name) VALUES (1, 'one'), (2, 'two; three');
