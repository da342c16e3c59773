-- expect: constraint.unique
-- locks: ACCESS EXCLUSIVE orders scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT one_note EXCLUDE USING btree (note WITH =);
