-- Takes a new lease: of generation 0 it makes one that the node never had, and
-- any other is one that another shard has made. Answers the generation.
--
-- KEYS: nodes, dying, the last generation (of the shard that makes them)
-- ARGV: node, generation, ttl, connections, version
local node, generation = ARGV[1], ARGV[2]
local time = now()
if generation == '0' then
  -- The clock, not a bare counter: Redis may have come back empty.
  local last = tonumber(redis.call('GET', KEYS[3]) or '') or 0
  generation = text(math.max(time, last + 1))
  redis.call('SET', KEYS[3], generation)
end
local record = redis.call('HGET', KEYS[1], node)
local before = record and lease(record)
if before and before ~= generation then
  redis.call('HSET', KEYS[2], before .. ':' .. node, record)
end
redis.call('HSET', KEYS[1], node, leaseRecord(generation, time, ARGV[3], ARGV[4], ARGV[5]))
return generation
