-- expect: partition.attach_scan
-- locks: ACCESS EXCLUSIVE events_loose scanned; SHARE UPDATE EXCLUSIVE events
SET lock_timeout = '2s';
ALTER TABLE events ATTACH PARTITION events_loose FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
