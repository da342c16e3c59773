-- name: find_table
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%(name)s::text);

-- name: user_search_path
SELECT pg_catalog.array_agg(s::text ORDER BY ord)
FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS u(s, ord);

-- name: table
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
  c.relpersistence::text AS persistence, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
  pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner,
  pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE') AS owner_may_create_in_schema,
  pg_catalog.has_database_privilege(c.relowner, pg_catalog.current_database(), 'CREATE')
    AS owner_may_create_schema,
  pg_catalog.has_database_privilege(c.relowner, pg_catalog.current_database(), 'TEMPORARY')
    AS owner_may_create_temp,
  (SELECT r.rolsuper OR r.rolbypassrls FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner) AS owner_bypasses_rls,
  pg_catalog.pg_has_role(CURRENT_USER, 'pg_read_all_stats', 'USAGE') AS sees_all_sessions,
  t.spcname::text AS tablespace, am.amname::text AS access_method,
  c.reloptions AS reloptions, tc.reloptions AS toast_reloptions,
  c.relreplident::text AS replica_identity, c.relrowsecurity AS row_security,
  c.relforcerowsecurity AS force_row_security, c.relispartition AS is_partition,
  EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid AND NOT c.relispartition) AS inherits,
  EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
  c.reloftype <> 0 AS is_typed,
  pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
  c.reltuples::float8 AS reltuples, pg_catalog.pg_relation_size(c.oid)::int8 AS heap_bytes,
  pg_catalog.pg_indexes_size(c.oid)::int8 AS index_bytes,
  (pg_catalog.pg_table_size(c.oid) - pg_catalog.pg_relation_size(c.oid))::int8 AS toast_bytes,
  pg_catalog.current_setting('block_size')::int4 AS block_bytes,
  c.relacl IS NOT NULL AS has_acl,
  EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid) AS has_rules,
  EXISTS (SELECT FROM pg_catalog.pg_seclabel l WHERE l.objoid = c.oid
          AND l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass) AS has_security_label,
  EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid) AS is_subscribed,
  (SELECT e.extname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
   WHERE d.objid = c.oid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass LIMIT 1) AS extension
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN pg_catalog.pg_class tc ON tc.oid = c.reltoastrelid
WHERE c.oid = %(oid)s::int8::pg_catalog.oid;

-- name: columns
SELECT a.attnum::int4 AS number, a.attname::text AS name, a.atttypid::int8 AS type_oid,
  pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, y.typtype::text AS type_kind,
  y.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AS is_builtin_type,
  CASE WHEN a.attcollation <> y.typcollation THEN
    (SELECT pg_catalog.format('%%I.%%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co
     JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END AS collation,
  a.attnotnull AS not_null, nn.conname::text AS not_null_name,
  COALESCE(nn.convalidated AND NOT nn.connoinherit, true) AS not_null_is_plain,
  pg_catalog.obj_description(nn.oid, 'pg_constraint') AS not_null_comment,
  CASE WHEN d.adbin IS NOT NULL THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS default_sql,
  a.attgenerated::text AS generated, a.attidentity::text AS identity,
  a.attstorage::text AS storage, y.typstorage::text AS type_storage, a.attcompression::text AS compression,
  -- The default is -1 up to 16, NULL from 17 on.
  NULLIF(a.attstattarget, -1)::int4 AS statistics_target, a.attoptions AS options,
  pg_catalog.col_description(a.attrelid, a.attnum) AS comment,
  COALESCE((SELECT pg_catalog.format('OPERATOR(%%I.%%s)', pn.nspname, op.oprname)
    FROM pg_catalog.pg_opclass oc
    JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
      AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
    JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr
    JOIN pg_catalog.pg_namespace pn ON pn.oid = op.oprnamespace
    WHERE oc.opcmethod = 403 AND oc.opcdefault
      AND oc.opcintype = CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE a.atttypid END), 'OPERATOR(pg_catalog.=)') AS equals,
  EXISTS (SELECT FROM pg_catalog.pg_opclass o WHERE o.opcdefault AND o.opcmethod = 405
          AND (o.opcintype = a.atttypid OR (y.typtype = 'e' AND o.opcintype = 'anyenum'::pg_catalog.regtype)))
    AS has_hash_opclass,
  -- As GetDefaultOpClass() decides; arrays, domains and composites are ordered when all they consist of is.
  NOT EXISTS (
    WITH RECURSIVE parts(type_oid) AS (
      SELECT a.atttypid
      UNION
      SELECT inner_type.oid FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.type_oid
      CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
        UNION ALL
        SELECT f.atttypid FROM pg_catalog.pg_attribute f
        WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
      ) inner_type(oid))
    SELECT FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.type_oid
    WHERE t.typtype NOT IN ('d', 'e', 'r', 'm', 'c')
      AND NOT (t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc)
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_opclass o WHERE o.opcmethod = 403 AND o.opcdefault
          AND (o.opcintype = t.oid OR EXISTS (
            SELECT FROM pg_catalog.pg_cast ct WHERE ct.castsource = t.oid AND ct.casttarget = o.opcintype
              AND ct.castmethod = 'b' AND ct.castcontext = 'i')))) AS has_btree_opclass
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
-- Up to 17 a NOT NULL has no row here: it has no name, and is plain.
LEFT JOIN pg_catalog.pg_constraint nn ON nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey = ARRAY[a.attnum]
WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: grants
SELECT 'table'::text AS kind, ''::text AS column_name, c.oid::int8 AS oid, pg_catalog.pg_get_userbyid(x.grantor)::text AS grantor,
  CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END AS grantee,
  x.privilege_type AS privilege, x.is_grantable AS grantable
FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) x
WHERE c.oid = %(oid)s::int8::pg_catalog.oid
UNION ALL
SELECT 'column', a.attname::text, a.attrelid::int8, pg_catalog.pg_get_userbyid(x.grantor)::text,
  CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END,
  x.privilege_type, x.is_grantable
FROM pg_catalog.pg_attribute a, LATERAL pg_catalog.aclexplode(a.attacl) x
WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND NOT a.attisdropped;

-- name: default_grantees
SELECT DISTINCT CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END AS grantee,
  d.defaclobjtype::text AS kind
FROM pg_catalog.pg_default_acl d, pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(d.defaclacl) x
WHERE c.oid = %(oid)s::int8::pg_catalog.oid AND d.defaclrole = c.relowner AND d.defaclobjtype IN ('r', 'S', 'n')
  AND x.grantee <> c.relowner;

-- name: constraints
SELECT k.oid::int8 AS oid, k.conname::text AS name, k.contype::text AS kind,
  pg_catalog.pg_get_constraintdef(k.oid) AS definition, k.convalidated AS is_validated,
  k.condeferrable AS is_deferrable, k.condeferred AS is_deferred, k.connoinherit AS no_inherit,
  COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.ord)
   FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(num, ord)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num), '{}') AS columns,
  k.conindid::int8 AS index_oid, pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
  k.confrelid::int8 AS references_oid,
  COALESCE(pg_catalog.to_jsonb(k) ->> 'conperiod', 'false')::bool AS is_temporal,
  COALESCE(pg_catalog.to_jsonb(k) ->> 'conenforced', 'true')::bool AS is_enforced
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = %(oid)s::int8::pg_catalog.oid AND k.contype IN ('c', 'p', 'u', 'x', 'f')
  -- A foreign key to a partitioned table has a row for each of its partitions besides.
  AND (k.contype <> 'f' OR k.conparentid = 0)
ORDER BY k.conname;

-- name: incoming_foreign_keys
SELECT k.oid::int8 AS oid, k.conname::text AS name, pg_catalog.pg_get_constraintdef(k.oid) AS definition,
  n.nspname::text AS schema, c.relname::text AS table_name, c.relkind::text AS kind,
  c.oid::int8 AS table_oid,
  pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
  k.convalidated AS is_validated, pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
  (SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.ord)
   FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(num, ord)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num) AS referenced_columns
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.confrelid = %(oid)s::int8::pg_catalog.oid AND k.contype = 'f' AND k.conparentid = 0
ORDER BY k.conname;

-- name: indexes
SELECT i.indexrelid::int8 AS oid, c.relname::text AS name,
  pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid), 1 + pg_catalog.length(
    pg_catalog.format('CREATE %%sINDEX %%I ON %%I.%%I ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
                      c.relname, tn.nspname, tc.relname))) AS tail,
  i.indisunique AS is_unique, i.indisprimary AS is_primary, i.indisvalid AS is_valid,
  i.indisexclusion AS is_exclusion, i.indimmediate AS is_immediate, i.indisclustered AS is_clustered,
  i.indisreplident AS is_replica_identity, i.indpred IS NOT NULL AS is_partial,
  pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
  i.indexprs IS NOT NULL AS has_expressions,
  (SELECT pg_catalog.array_agg(COALESCE(a.attname::text, '') ORDER BY u.ord)
   FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(num, ord)
   LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num AND u.num > 0
   WHERE u.ord <= i.indnkeyatts) AS key_columns,
  COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY u.ord)
   FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u(num, ord)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num
   WHERE u.ord > i.indnkeyatts), '{}') AS included_columns,
  (SELECT pg_catalog.array_agg(CASE WHEN op.oid IS NULL THEN '' ELSE pg_catalog.format('OPERATOR(%%I.%%s)', pn.nspname, op.oprname) END ORDER BY u.ord)
   FROM pg_catalog.unnest(i.indclass::oid[]) WITH ORDINALITY u(opclass, ord)
   JOIN pg_catalog.pg_opclass oc ON oc.oid = u.opclass
   LEFT JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3 AND oc.opcmethod = 403
     AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
   LEFT JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr
   LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = op.oprnamespace) AS key_operators,
  (SELECT pg_catalog.array_agg(COALESCE(a.attcollation <> u.collation_oid, false) ORDER BY u.ord)
   FROM ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indcollation::oid[]))
     WITH ORDINALITY u(num, collation_oid, ord)
   LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num AND u.num > 0
   WHERE u.ord <= i.indnkeyatts) AS own_collation,
  c.reloptions AS reloptions, k.conname::text AS constraint_name,
  COALESCE(pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct', 'false')::bool AS nulls_not_distinct,
  ts.spcname::text AS tablespace, pg_catalog.obj_description(i.indexrelid, 'pg_class') AS comment,
  COALESCE((SELECT pg_catalog.array_agg(a.attnum::int4 ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = i.indexrelid AND COALESCE(a.attstattarget, -1) >= 0), '{}') AS target_columns,
  COALESCE((SELECT pg_catalog.array_agg(a.attstattarget::int4 ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = i.indexrelid AND COALESCE(a.attstattarget, -1) >= 0), '{}') AS targets,
  pg_catalog.pg_relation_size(i.indexrelid)::int8 AS bytes
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class tc ON tc.oid = i.indrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = tc.relnamespace
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
  AND k.contype IN ('p', 'u', 'x')
LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = c.reltablespace
WHERE i.indrelid = %(oid)s::int8::pg_catalog.oid
ORDER BY c.relname;

-- name: triggers
SELECT t.oid::int8 AS oid, t.tgname::text AS name, pg_catalog.pg_get_triggerdef(t.oid) AS definition,
  t.tgenabled::text AS enabled, pg_catalog.obj_description(t.oid, 'pg_trigger') AS comment,
  (t.tgtype & 1) <> 0 AS is_row, (t.tgtype & 2) <> 0 AS is_before,
  (t.tgtype & 4) <> 0 AS on_insert, (t.tgtype & 16) <> 0 AS on_update,
  t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL AS has_transition_tables,
  p.prosrc AS source
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = %(oid)s::int8::pg_catalog.oid AND NOT t.tgisinternal
ORDER BY t.tgname;

-- name: policies
SELECT p.polname::text AS name, p.polcmd::text AS command, p.polpermissive AS is_permissive,
  (SELECT pg_catalog.array_agg(CASE WHEN r = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(r)::text END)
   FROM pg_catalog.unnest(p.polroles) r) AS roles,
  pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS using_sql,
  pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS check_sql,
  pg_catalog.obj_description(p.oid, 'pg_policy') AS comment,
  -- Of a subquery's own tables; pg_depend has the policy's plain columns and the subquery's alike.
  pg_catalog.strpos(pg_catalog.concat(p.polqual::text, ' ', p.polwithcheck::text),
    pg_catalog.concat(':relid ', p.polrelid, ' ')) > 0 AS mentions_table
FROM pg_catalog.pg_policy p
WHERE p.polrelid = %(oid)s::int8::pg_catalog.oid
ORDER BY p.polname;

-- name: statistics_objects
SELECT s.oid::int8 AS oid, n.nspname::text AS schema, s.stxname::text AS name,
  pg_catalog.pg_get_statisticsobjdef(s.oid) AS definition,
  NULLIF(s.stxstattarget, -1)::int4 AS target, pg_catalog.pg_get_userbyid(s.stxowner)::text AS owner,
  pg_catalog.obj_description(s.oid, 'pg_statistic_ext') AS comment
FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = %(oid)s::int8::pg_catalog.oid
ORDER BY s.stxname;

-- name: publications
-- since: 150000
SELECT p.pubname::text AS name, p.pubviaroot AS via_root, p.puballtables AS for_all_tables,
  EXISTS (SELECT FROM pg_catalog.pg_publication_namespace pn WHERE pn.pnpubid = p.oid AND pn.pnnspid = c.relnamespace)
    AS for_schema,
  pg_catalog.pg_has_role(p.pubowner, 'USAGE') AS is_owner,
  COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = c.oid AND a.attnum = ANY (pr.prattrs::int2[])), '{}') AS columns,
  pg_catalog.pg_get_expr(pr.prqual, c.oid) AS where_sql, pr.oid IS NOT NULL AS is_member
FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.pg_publication p
LEFT JOIN pg_catalog.pg_publication_rel pr ON pr.prpubid = p.oid AND pr.prrelid = c.oid
WHERE c.oid = %(oid)s::int8::pg_catalog.oid AND (p.puballtables OR pr.oid IS NOT NULL OR EXISTS (
  SELECT FROM pg_catalog.pg_publication_namespace pn WHERE pn.pnpubid = p.oid AND pn.pnnspid = c.relnamespace))
ORDER BY p.pubname;

-- name: publications
-- until: 150000
SELECT p.pubname::text AS name, p.pubviaroot AS via_root, p.puballtables AS for_all_tables, false AS for_schema,
  pg_catalog.pg_has_role(p.pubowner, 'USAGE') AS is_owner,
  '{}'::text[] AS columns, NULL::text AS where_sql, pr.oid IS NOT NULL AS is_member
FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.pg_publication p
LEFT JOIN pg_catalog.pg_publication_rel pr ON pr.prpubid = p.oid AND pr.prrelid = c.oid
WHERE c.oid = %(oid)s::int8::pg_catalog.oid AND (p.puballtables OR pr.oid IS NOT NULL)
ORDER BY p.pubname;

-- name: dependent_views
SELECT v.oid::int8 AS oid, n.nspname::text AS schema, v.relname::text AS name, v.relkind::text AS kind,
  pg_catalog.pg_get_viewdef(v.oid) AS definition, v.reloptions AS reloptions,
  pg_catalog.pg_has_role(v.relowner, 'USAGE') AS is_owner, pg_catalog.pg_get_userbyid(v.relowner)::text AS owner,
  (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
  EXISTS (SELECT FROM pg_catalog.pg_depend k JOIN pg_catalog.pg_constraint pk ON pk.oid = k.refobjid
    WHERE k.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND k.objid = w.oid
      AND k.refclassid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
      AND pk.conrelid = %(oid)s::int8::pg_catalog.oid) AS needs_primary_key,
  w.rulename <> '_RETURN' AS is_rule
FROM (SELECT DISTINCT d.objid FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid = %(oid)s::int8::pg_catalog.oid) r
JOIN pg_catalog.pg_rewrite w ON w.oid = r.objid
JOIN pg_catalog.pg_class v ON v.oid = w.ev_class
JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
WHERE v.oid <> %(oid)s::int8::pg_catalog.oid
ORDER BY n.nspname, v.relname;

-- name: matview_state
SELECT c.relispopulated AS is_populated,
  -- What the table's owner makes it must be able to give away.
  pg_catalog.pg_has_role(t.relowner, c.relowner, 'USAGE') AND pg_catalog.pg_has_role(t.relowner, c.relowner,
    CASE WHEN pg_catalog.current_setting('server_version_num')::int4 >= 160000 THEN 'SET' ELSE 'MEMBER' END) AS may_own,
  pg_catalog.has_schema_privilege(t.relowner, c.relnamespace, 'CREATE') AS may_create
FROM pg_catalog.pg_class c, pg_catalog.pg_class t
WHERE c.oid = %(oid)s::int8::pg_catalog.oid AND t.oid = %(table_oid)s::int8::pg_catalog.oid;

-- name: is_populated
SELECT c.relispopulated FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%(name)s::text);

-- name: dependent_functions
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.proname::text AS name, p.prokind::text AS kind,
  pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments,
  CASE WHEN p.prokind IN ('f', 'p', 'w') THEN pg_catalog.pg_get_functiondef(p.oid) END AS definition,
  pg_catalog.pg_has_role(p.proowner, 'USAGE') AS is_owner,
  bool_or(d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass) AS uses_row_type
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_proc p ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.objid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_class c ON c.oid = %(oid)s::int8::pg_catalog.oid
LEFT JOIN pg_catalog.pg_type y ON y.oid = c.reltype
WHERE (d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid)
   OR (d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (y.oid, y.typarray))
GROUP BY p.oid, n.nspname, p.proname, p.prokind, p.proowner
ORDER BY n.nspname, p.proname;

-- name: row_type_users
SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) AS description
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class c ON c.oid = %(oid)s::int8::pg_catalog.oid
JOIN pg_catalog.pg_type y ON y.oid = c.reltype
WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (y.oid, y.typarray)
  AND d.classid NOT IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass)
  AND d.deptype = 'n'
ORDER BY 1;

-- name: other_dependents
SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) AS description
FROM pg_catalog.pg_depend d
WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %(oid)s::int8::pg_catalog.oid
  AND d.deptype IN ('n', 'a')
  -- Before 15 a generated column is its own table's dependent.
  AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = d.refobjid)
  AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND EXISTS (
    SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.objid AND c.relkind IN ('i', 'S', 't')))
  AND d.classid NOT IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
    'pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_attrdef'::pg_catalog.regclass,
    'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_publication_rel'::pg_catalog.regclass,
    'pg_catalog.pg_statistic_ext'::pg_catalog.regclass)
  AND NOT (d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND EXISTS (
    SELECT FROM pg_catalog.pg_trigger t WHERE t.oid = d.objid
      AND (t.tgrelid = %(oid)s::int8::pg_catalog.oid OR t.tgconstrrelid = %(oid)s::int8::pg_catalog.oid)))
  AND NOT (d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND EXISTS (
    SELECT FROM pg_catalog.pg_policy p WHERE p.oid = d.objid AND p.polrelid = %(oid)s::int8::pg_catalog.oid))
ORDER BY 1;

-- name: owned_sequences
SELECT s.oid::int8 AS oid, n.nspname::text AS schema, s.relname::text AS name, a.attname::text AS column_name,
  d.deptype = 'i' AS is_identity, q.seqstart::text AS start, q.seqincrement::text AS increment,
  q.seqmin::text AS minimum, q.seqmax::text AS maximum, q.seqcache::text AS cache, q.seqcycle AS cycles,
  pg_catalog.obj_description(s.oid, 'pg_class') AS comment, s.relacl IS NOT NULL AS has_acl,
  s.relpersistence::text AS persistence
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refobjid = %(oid)s::int8::pg_catalog.oid AND d.deptype IN ('a', 'i')
ORDER BY a.attnum;

-- name: schema_relations
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text;

-- name: fingerprint
SELECT pg_catalog.md5(pg_catalog.concat_ws('|',
  (SELECT pg_catalog.concat_ws(',', c.relname, c.relnamespace, c.relowner, c.relacl, c.relrowsecurity,
     c.relforcerowsecurity, c.relreplident, c.reltablespace, pg_catalog.array_to_string(c.reloptions, ','))
   FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
     a.attidentity, a.attgenerated, a.attisdropped, a.attstorage, a.attcompression, a.attacl, a.atthasdef,
     COALESCE(a.attstattarget, -1), a.attoptions), ';'
     ORDER BY a.attnum)
   FROM pg_catalog.pg_attribute a WHERE a.attrelid = %(oid)s::int8::pg_catalog.oid AND a.attnum > 0),
  (SELECT pg_catalog.string_agg(d.adbin::text, ';' ORDER BY d.adnum)
   FROM pg_catalog.pg_attrdef d WHERE d.adrelid = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', k.oid, k.conname, k.convalidated), ';' ORDER BY k.oid)
   FROM pg_catalog.pg_constraint k
   -- What a run of ours puts on the table is no change of its definition.
   WHERE (k.conrelid = %(oid)s::int8::pg_catalog.oid OR k.confrelid = %(oid)s::int8::pg_catalog.oid)
     AND k.conname NOT LIKE '\_pgscale\_%%'),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', i.indexrelid, i.indisvalid, c.relname), ';'
     ORDER BY i.indexrelid)
   FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
   WHERE i.indrelid = %(oid)s::int8::pg_catalog.oid AND c.relname NOT LIKE '\_pgscale\_%%'),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', t.oid, t.tgname, t.tgenabled), ';' ORDER BY t.oid)
   FROM pg_catalog.pg_trigger t
   WHERE t.tgrelid = %(oid)s::int8::pg_catalog.oid AND NOT t.tgisinternal AND t.tgname NOT LIKE '\_pgscale\_%%'),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', p.oid, p.xmin), ';' ORDER BY p.oid)
   FROM pg_catalog.pg_policy p WHERE p.polrelid = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(i.inhrelid::text, ';' ORDER BY i.inhrelid)
   FROM pg_catalog.pg_inherits i WHERE i.inhparent = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', pr.prpubid, pr.xmin), ';' ORDER BY pr.prpubid)
   FROM pg_catalog.pg_publication_rel pr WHERE pr.prrelid = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', s.oid, s.stxname), ';' ORDER BY s.oid)
   FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = %(oid)s::int8::pg_catalog.oid),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', d.objsubid, d.description), ';' ORDER BY d.objsubid)
   FROM pg_catalog.pg_description d WHERE d.objoid = %(oid)s::int8::pg_catalog.oid
     AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', p.oid, p.xmin), ';' ORDER BY p.oid)
   FROM pg_catalog.pg_proc p WHERE p.oid IN (SELECT d.objid FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.refobjid = %(oid)s::int8::pg_catalog.oid)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', w.ev_class, w.oid, w.xmin), ';' ORDER BY w.oid)
   FROM pg_catalog.pg_rewrite w WHERE w.oid IN (SELECT d.objid FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.refobjid = %(oid)s::int8::pg_catalog.oid)),
  -- The materialized views that are re-created, with all that is re-created for them. REFRESH changes nothing here.
  (WITH RECURSIVE readers(oid, read) AS (
     SELECT w.ev_class, d.refobjid FROM pg_catalog.pg_depend d
     JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = d.objid
     JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind = 'm'
     WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %(oid)s::int8::pg_catalog.oid
     UNION
     SELECT w.ev_class, d.refobjid FROM readers r
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = r.oid
     JOIN pg_catalog.pg_rewrite w ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = d.objid
     JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.relkind = 'm'),
   parts(oid, owner) AS (
     SELECT r.oid, r.oid FROM readers r
     UNION SELECT i.indexrelid, i.indrelid FROM readers r JOIN pg_catalog.pg_index i ON i.indrelid = r.oid)
   SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', p.owner, c.oid, c.relname, c.relnamespace, c.relowner, c.relacl,
     c.relam, c.reltablespace, c.relreplident, pg_catalog.array_to_string(c.reloptions, ','),
     (SELECT pg_catalog.array_to_string(tc.reloptions, ',') FROM pg_catalog.pg_class tc WHERE tc.oid = c.reltoastrelid),
     (SELECT pg_catalog.concat_ws(',', i.indisvalid, i.indisclustered, i.indisreplident)
      FROM pg_catalog.pg_index i WHERE i.indexrelid = c.oid),
     (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', a.attnum, a.attname, a.attstorage, a.attcompression, a.attacl,
        COALESCE(a.attstattarget, -1), a.attoptions), '+' ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
     (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', s.oid, s.xmin), '+' ORDER BY s.oid)
      FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = c.oid),
     (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', d.objsubid, d.description), '+' ORDER BY d.objsubid)
      FROM pg_catalog.pg_description d WHERE d.objoid = c.oid
        AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass),
     (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', w.ev_class, w.oid, w.xmin), '+' ORDER BY w.oid)
      FROM pg_catalog.pg_rewrite w WHERE w.oid IN (SELECT d.objid FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid)),
     (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', f.oid, f.xmin), '+' ORDER BY f.oid)
      FROM pg_catalog.pg_proc f WHERE f.oid IN (SELECT d.objid FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid))),
     ';' ORDER BY p.owner, c.oid)
   FROM parts p JOIN pg_catalog.pg_class c ON c.oid = p.oid)));

-- name: column_statistics
SELECT s.n_distinct::float8 AS n_distinct, s.null_frac::float8 AS null_frac, s.correlation::float8 AS correlation,
  s.most_common_freqs::float8[] AS frequencies, s.most_common_vals::text::text[] AS values
FROM pg_catalog.pg_stats s
WHERE s.schemaname = %(schema)s::text AND s.tablename = %(table)s::text AND s.attname = %(column)s::text
  AND NOT s.inherited;

-- name: column_signature
SELECT pg_catalog.string_agg(pg_catalog.format('%%I %%s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', '
  ORDER BY a.attnum)
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = pg_catalog.to_regclass(%(name)s::text) AND a.attnum > 0 AND NOT a.attisdropped;

-- name: histogram
SELECT s.histogram_bounds::text::text[] FROM pg_catalog.pg_stats s
WHERE s.schemaname = %(schema)s::text AND s.tablename = %(table)s::text AND s.attname = %(column)s::text
  AND NOT s.inherited;
