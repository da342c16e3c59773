-- expect: constraint.unique
-- locks: ACCESS EXCLUSIVE orders scanned
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT one_note EXCLUDE USING btree (note WITH =);
