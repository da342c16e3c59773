-- Add the events of one call, all or none, and once: a producer numbers its calls, and a call that is sent again because
-- its answer was lost is known by its number. KEYS: the numbers of all producers, then streams; ARGV: the number, the
-- producer, then a stream's place in KEYS and a record, again and again. The numbers are in a hash without an expiry: a
-- server that evicts volatile keys when it is full would forget them just then.
local said = redis.call('HGET', KEYS[1], ARGV[2])
if said and tonumber(string.match(said, '^%d+')) >= tonumber(ARGV[1]) then
  return 0
end
for i = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[tonumber(ARGV[i])], '*', 'e', ARGV[i + 1])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[1] .. ' ' .. redis.call('TIME')[1])
return (#ARGV - 2) / 2
