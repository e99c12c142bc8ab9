-- Takes a new lease. If the generation is 0 it makes one that the node never had;
-- any other was made by the first shard. Answers the generation, and how many
-- stored numbers are not credible.
--
-- KEYS: nodes, dying, the last generation (of the shard that makes them)
-- ARGV: node, generation, ttl, connections, version
local node, generation = ARGV[1], ARGV[2]
local time = now()
local record = redis.call('HGET', KEYS[1], node)
local before = record and lease(record)
local odd = 0
if generation == '0' then
  -- The clock, not a bare counter: Redis may have come back empty.
  local stored = redis.call('GET', KEYS[3])
  local last = credible(stored, time)
  odd = stored and not last and 1 or 0
  generation = text(math.max(time, (last or 0) + 1, (credible(before, time) or 0) + 1))
  redis.call('SET', KEYS[3], generation)
end
if before and before ~= generation then
  redis.call('HSET', KEYS[2], before .. ':' .. node, record)
end
redis.call('HSET', KEYS[1], node, leaseRecord(generation, time, ARGV[3], ARGV[4], ARGV[5]))
return {generation, odd}
