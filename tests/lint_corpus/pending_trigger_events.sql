-- expect: statement.failed
-- locks: none
SET lock_timeout = '2s';
BEGIN;
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int, parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
INSERT INTO parents VALUES (1);
INSERT INTO children VALUES (1, 1);
ALTER TABLE children ADD COLUMN a int;
COMMIT;
