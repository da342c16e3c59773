-- expect: table.rewrite
-- locks: ACCESS EXCLUSIVE events_loose rewritten scanned
SET lock_timeout = '2s';
ALTER TABLE events_loose SET UNLOGGED;
