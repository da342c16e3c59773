-- expect: index.not_concurrent
-- locks: SHARE events built_indexes; SHARE events_2024 scanned built_indexes; SHARE events_2025 scanned built_indexes
SET lock_timeout = '2s';
CREATE INDEX events_kind ON events (kind);
