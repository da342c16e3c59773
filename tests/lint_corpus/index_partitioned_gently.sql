-- expect: nothing
-- locks: SHARE UPDATE EXCLUSIVE events_2024 built_indexes; SHARE events
SET lock_timeout = '2s';
CREATE INDEX events_kind ON ONLY events (kind);
CREATE INDEX CONCURRENTLY events_2024_kind ON events_2024 (kind);
ALTER INDEX events_kind ATTACH PARTITION events_2024_kind;
