-- expect: column.added_not_null
-- locks: ACCESS EXCLUSIVE events; ACCESS EXCLUSIVE events_2024 scanned; ACCESS EXCLUSIVE events_2025 scanned
SET lock_timeout = '2s';
ALTER TABLE events ADD COLUMN source text NOT NULL;
