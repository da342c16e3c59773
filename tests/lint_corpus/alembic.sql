-- expect: column.not_null index.not_concurrent
-- locks: ACCESS EXCLUSIVE orders scanned; SHARE orders scanned built_indexes
BEGIN;

CREATE TABLE IF NOT EXISTS alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade 0a1b -> 2c3d

SET LOCAL lock_timeout = '3s';

ALTER TABLE orders ALTER COLUMN note SET NOT NULL;

CREATE INDEX ix_orders_total ON orders (total);

UPDATE alembic_version SET version_num='2c3d' WHERE alembic_version.version_num = '0a1b';

COMMIT;
