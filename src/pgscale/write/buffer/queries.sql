-- name: has_table
SELECT pg_catalog.to_regclass('pgscale.buffer_lane') IS NOT NULL

-- name: lock_schema
SELECT pg_catalog.pg_advisory_xact_lock(%(lock)s::pg_catalog.int4, 0)

-- name: count_lanes
SELECT pg_catalog.count(*) FROM pgscale.buffer_lane WHERE buffer = %(buffer)s::pg_catalog.uuid

-- name: insert_lanes
INSERT INTO pgscale.buffer_lane (buffer, lane, position)
SELECT %(buffer)s::pg_catalog.uuid, g, %(position)s::pg_catalog.numeric
FROM pg_catalog.generate_series(0, %(lanes)s::pg_catalog.int4 - 1) g
ON CONFLICT (buffer, lane) DO NOTHING

-- name: forget_memory
-- Their ids begin with 32 zeros.
DELETE FROM pgscale.buffer_lane WHERE buffer < '00000001-0000-0000-0000-000000000000' AND buffer <> %(buffer)s::pg_catalog.uuid
  AND (landed_at IS NULL OR landed_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => 7))

-- name: commit_durably
SELECT pg_catalog.set_config('synchronous_commit', 'on', true)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'

-- name: claim_lanes
-- A lane that another drainer works on is left to it; one whose COMMIT is under way is waited for by nobody.
SELECT lane, position, tries FROM pgscale.buffer_lane WHERE buffer = %(buffer)s::pg_catalog.uuid
ORDER BY position, lane LIMIT %(most)s::pg_catalog.int8 FOR NO KEY UPDATE SKIP LOCKED

-- name: read_positions
SELECT lane, position FROM pgscale.buffer_lane WHERE buffer = %(buffer)s::pg_catalog.uuid

-- name: advance
UPDATE pgscale.buffer_lane b SET position = n.position, tries = COALESCE(n.tries, b.tries),
  landed = b.landed + n.landed, dead = b.dead + n.dead, retries = b.retries + %(retries)s::pg_catalog.int8,
  rate_per_s = %(rate)s::pg_catalog.float8, landed_at = pg_catalog.clock_timestamp(), last_error = %(error)s::text
FROM ROWS FROM (pg_catalog.unnest(%(lanes)s::pg_catalog.int4[]), pg_catalog.unnest(%(positions)s::pg_catalog.numeric[]),
  pg_catalog.unnest(%(landed)s::pg_catalog.int8[]), pg_catalog.unnest(%(dead)s::pg_catalog.int8[]),
  pg_catalog.unnest(%(tries)s::pg_catalog.int4[])) AS n(lane, position, landed, dead, tries)
WHERE b.buffer = %(buffer)s::pg_catalog.uuid AND b.lane = n.lane

-- name: note_error
UPDATE pgscale.buffer_lane SET last_error = %(error)s::text, retries = retries + 1 WHERE (buffer, lane) IN (
  SELECT b.buffer, b.lane FROM pgscale.buffer_lane b WHERE b.buffer = %(buffer)s::pg_catalog.uuid
  ORDER BY b.lane FOR NO KEY UPDATE SKIP LOCKED)

-- name: clear_error
UPDATE pgscale.buffer_lane SET last_error = NULL WHERE (buffer, lane) IN (
  SELECT b.buffer, b.lane FROM pgscale.buffer_lane b
  WHERE b.buffer = %(buffer)s::pg_catalog.uuid AND b.last_error IS NOT NULL
  ORDER BY b.lane FOR NO KEY UPDATE SKIP LOCKED)

-- name: read_lanes
SELECT lane, position, tries, landed, dead, retries, rate_per_s,
  EXTRACT(epoch FROM pg_catalog.clock_timestamp() - landed_at)::pg_catalog.float8 AS landed_ago_s, last_error
FROM pgscale.buffer_lane WHERE buffer = %(buffer)s::pg_catalog.uuid ORDER BY lane

-- name: rewind
-- A position is number, tag and index. One in a segment of the same number and another tag is of another directory, and
-- no measure.
UPDATE pgscale.buffer_lane b SET position = %(position)s::pg_catalog.numeric, tries = 0
WHERE b.buffer = %(buffer)s::pg_catalog.uuid AND (b.position > %(position)s::pg_catalog.numeric
  OR (pg_catalog.div(b.position, 18446744073709551616) = pg_catalog.div(%(position)s::pg_catalog.numeric, 18446744073709551616)
    AND pg_catalog.div(b.position, 4294967296) <> pg_catalog.div(%(position)s::pg_catalog.numeric, 4294967296)
    AND pg_catalog.mod(b.position, 18446744073709551616) > 0))
