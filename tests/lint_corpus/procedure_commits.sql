-- expect: nothing
-- locks: none
-- transaction: per-statement
CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET note = note WHERE id = 1; COMMIT; END';
CALL p();
