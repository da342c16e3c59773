-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
ALTER TYPE mood ADD VALUE 'fine';
