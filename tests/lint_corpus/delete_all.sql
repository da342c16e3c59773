-- expect: data.whole_table
-- locks: none
SET lock_timeout = '2s';
DELETE FROM items;
