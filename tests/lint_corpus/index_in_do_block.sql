-- expect: index.not_concurrent
-- locks: SHARE orders scanned built_indexes
SET lock_timeout = '2s';
DO $$
BEGIN
  IF to_regclass('orders_customer') IS NULL THEN
    CREATE INDEX orders_customer ON orders (customer_id);
  END IF;
END $$;
