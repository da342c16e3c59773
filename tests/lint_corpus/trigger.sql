-- expect: trigger.create
-- locks: SHARE ROW EXCLUSIVE orders
SET lock_timeout = '2s';
CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
