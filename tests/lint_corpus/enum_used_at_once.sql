-- expect: enum.value_used
-- locks: none
SET lock_timeout = '2s';
BEGIN;
ALTER TYPE mood ADD VALUE 'fine';
UPDATE orders SET feeling = 'fine' WHERE id = 1;
COMMIT;
