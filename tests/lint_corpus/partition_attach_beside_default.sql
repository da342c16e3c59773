-- expect: partition.attach_scan
-- locks: ACCESS EXCLUSIVE logs_2030; ACCESS EXCLUSIVE logs_rest scanned; SHARE UPDATE EXCLUSIVE logs
SET lock_timeout = '2s';
ALTER TABLE logs ATTACH PARTITION logs_2030 FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
