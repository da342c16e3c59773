-- expect: index.not_concurrent lock_timeout.missing transaction.several_tables
-- locks: ACCESS EXCLUSIVE items; ACCESS EXCLUSIVE orders; SHARE ROW EXCLUSIVE customers; SHARE customers scanned built_indexes
BEGIN;
--
-- Add field payer to order
--
ALTER TABLE "orders" ADD COLUMN "agent_id" bigint NULL CONSTRAINT "orders_agent_fk" REFERENCES "customers"("id") DEFERRABLE INITIALLY DEFERRED; SET CONSTRAINTS "orders_agent_fk" IMMEDIATE;
--
-- Add index to customer
--
CREATE INDEX "customers_name_like" ON "customers" ("name" text_pattern_ops);
ALTER TABLE "items" ADD COLUMN "note" text NULL;
COMMIT;
