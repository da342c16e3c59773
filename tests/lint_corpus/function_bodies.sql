-- expect: nothing
-- locks: none
SET lock_timeout = '2s';
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END;
CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS $body$ BEGIN PERFORM 1; RETURN 'a;b'; END $body$;
/* a comment; /* nested; */ */
SELECT E'it''s \'; one', "current_user"();
