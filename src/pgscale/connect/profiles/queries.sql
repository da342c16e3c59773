-- name: read_facts
-- since: 150000
-- Few settings are not in pg_settings at all; what pg_settings hides from the role, current_setting refuses.
-- Those of the transaction are set before this is read: what they were is what they are by default.
SELECT
  n.name,
  s.name IS NOT NULL OR (n.name !~ '[.]' AND pg_catalog.current_setting(n.name, true) IS NOT NULL),
  s.context,
  pg_catalog.has_parameter_privilege(n.name, 'SET'),
  s.vartype, s.unit, s.min_val, s.max_val, s.enumvals,
  pg_catalog.current_setting(CASE WHEN n.name IN ('transaction_isolation', 'transaction_deferrable')
    THEN 'default_' || n.name ELSE n.name END, true),
  current_user::pg_catalog.text
FROM pg_catalog.unnest(%(names)s::pg_catalog.text[]) WITH ORDINALITY n(name, place)
LEFT JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = n.name
ORDER BY n.place

-- name: read_facts
-- until: 150000
SELECT
  n.name,
  s.name IS NOT NULL OR (n.name !~ '[.]' AND pg_catalog.current_setting(n.name, true) IS NOT NULL),
  s.context,
  (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
  s.vartype, s.unit, s.min_val, s.max_val, s.enumvals,
  pg_catalog.current_setting(CASE WHEN n.name IN ('transaction_isolation', 'transaction_deferrable')
    THEN 'default_' || n.name ELSE n.name END, true),
  current_user::pg_catalog.text
FROM pg_catalog.unnest(%(names)s::pg_catalog.text[]) WITH ORDINALITY n(name, place)
LEFT JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = n.name
ORDER BY n.place

-- name: read_names
SELECT s.name FROM pg_catalog.pg_settings s

-- name: apply
SELECT pg_catalog.set_config(n.name, n.value, true)
FROM ROWS FROM (
  pg_catalog.unnest(%(names)s::pg_catalog.text[]), pg_catalog.unnest(%(values)s::pg_catalog.text[])
) n(name, value)

-- name: read_values
SELECT pg_catalog.current_setting(n.name, true)
FROM pg_catalog.unnest(%(names)s::pg_catalog.text[]) WITH ORDINALITY n(name, place)
ORDER BY n.place

-- name: read_effective
-- Autovacuum's workers have what the configuration says, not what this session has set.
SELECT
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('work_mem')),
  pg_catalog.current_setting('hash_mem_multiplier')::pg_catalog.float8,
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')),
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('temp_buffers')),
  pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),
  pg_catalog.current_setting('max_parallel_workers_per_gather')::pg_catalog.int4,
  pg_catalog.current_setting('max_parallel_workers')::pg_catalog.int4,
  pg_catalog.current_setting('autovacuum_max_workers')::pg_catalog.int4,
  CASE WHEN pg_catalog.current_setting('autovacuum_work_mem') = '-1'
    THEN (SELECT s.reset_val::pg_catalog.int8 * 1024 FROM pg_catalog.pg_settings s
      WHERE s.name = 'maintenance_work_mem')
    ELSE pg_catalog.pg_size_bytes(pg_catalog.current_setting('autovacuum_work_mem')) END,
  ARRAY(
    SELECT t FROM pg_catalog.unnest(%(timeouts)s::pg_catalog.text[]) t
    WHERE pg_catalog.current_setting(t, true) = '0'
  )
