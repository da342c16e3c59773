-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
CREATE TABLE fresh (id bigint PRIMARY KEY);
COMMENT ON TABLE fresh IS 'new; with a semicolon';
