-- expect: transaction.not_allowed
-- locks: none
BEGIN;
CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET note = note WHERE id = 1; COMMIT; END';
CALL p();
COMMIT;
