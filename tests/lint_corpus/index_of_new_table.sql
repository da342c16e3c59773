-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
CREATE TABLE fresh (id bigint PRIMARY KEY, a int);
CREATE INDEX fresh_a ON fresh (a);
