-- expect: index.not_concurrent
-- locks: SHARE events; SHARE events_2024 scanned; SHARE events_2025 scanned
SET lock_timeout = '2s';
CREATE INDEX events_kind ON events (kind);
