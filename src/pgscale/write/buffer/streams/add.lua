-- Add the events of one call, all or none, and once: a producer numbers its calls, and a call that is sent again because
-- its answer was lost is known by its number. KEYS: the producer's, then streams; ARGV: number, seconds to remember it,
-- then a stream's place in KEYS and a record, again and again.
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if last >= tonumber(ARGV[1]) then
  return 0
end
for i = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[tonumber(ARGV[i])], '*', 'e', ARGV[i + 1])
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return (#ARGV - 2) / 2
