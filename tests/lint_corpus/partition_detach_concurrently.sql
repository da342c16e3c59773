-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE events; SHARE UPDATE EXCLUSIVE events_2024
SET lock_timeout = '2s';
ALTER TABLE events DETACH PARTITION events_2024 CONCURRENTLY;
