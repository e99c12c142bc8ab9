-- Renews a lease. Answers the generation, or nothing where the lease is lost.
-- It has one key, so that it works while a Cluster moves the shard.
--
-- KEYS: nodes
-- ARGV: node, generation, ttl, connections, version
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record or lease(record) ~= ARGV[2] then
  return false
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. text(now()) .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
return ARGV[2]
