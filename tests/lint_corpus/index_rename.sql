-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
ALTER INDEX orders_note RENAME TO orders_note_idx;
