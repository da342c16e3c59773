-- expect: constraint.unique
-- locks: ACCESS EXCLUSIVE events_loose scanned
SET lock_timeout = '2s';
ALTER TABLE events_loose ADD PRIMARY KEY (id, at);
