DO $closed$
DECLARE
  had_schema pg_catalog.bool := EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgscale');
  had pg_catalog.oid[] := ARRAY(SELECT c.oid FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgscale');
  taking text;
BEGIN
-- the script
  FOR taking IN
    SELECT pg_catalog.format('REVOKE %s ON %s %s FROM %s', pg_catalog.string_agg(DISTINCT a.privilege_type, ', '),
      made.kind, made.name, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END)
    FROM (
      SELECT 'SCHEMA', 'n', 'pgscale', n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n
      WHERE n.nspname = 'pgscale' AND NOT had_schema
      UNION ALL
      SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END,
        pg_catalog.format('pgscale.%I', c.relname), c.relowner, c.relacl
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgscale' AND c.oid <> ALL (had)
    ) made(kind, type, name, owner, acl)
    CROSS JOIN LATERAL pg_catalog.aclexplode(made.acl) a
    WHERE a.grantee <> made.owner
      -- What was said of this schema by name was meant for it.
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
        CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) x
        WHERE n.nspname = 'pgscale' AND d.defaclrole = made.owner AND d.defaclobjtype::text = made.type
          AND x.grantee = a.grantee AND x.privilege_type = a.privilege_type)
    GROUP BY made.kind, made.name, a.grantee
  LOOP
    EXECUTE taking;
  END LOOP;
END $closed$
