-- expect: constraint.unique
-- locks: ACCESS EXCLUSIVE events_loose scanned built_indexes
SET lock_timeout = '2s';
ALTER TABLE events_loose ADD PRIMARY KEY (id, at);
