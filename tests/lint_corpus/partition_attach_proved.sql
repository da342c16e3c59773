-- expect: nothing
-- locks: ACCESS EXCLUSIVE events_proved; SHARE UPDATE EXCLUSIVE events
SET lock_timeout = '2s';
ALTER TABLE events ATTACH PARTITION events_proved FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
