-- expect: statement.failed
-- locks: none
SET lock_timeout = '2s';
BEGIN;
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
INSERT INTO children VALUES (7);
COMMIT;
