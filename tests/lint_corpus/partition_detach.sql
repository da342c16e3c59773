-- expect: partition.detach
-- locks: ACCESS EXCLUSIVE events; ACCESS EXCLUSIVE events_2024
SET lock_timeout = '2s';
ALTER TABLE events DETACH PARTITION events_2024;
