-- Renews a lease. Answers the generation, or nothing if the lease is lost.
-- It has one key, so that it works while a Cluster moves the shard. Each renewal
-- has a stamp that differs from the last: readers look for that.
--
-- KEYS: nodes
-- ARGV: node, generation, ttl, connections, version
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record or lease(record) ~= ARGV[2] then
  return false
end
local time = now()
local renewed = leaseRecord(ARGV[2], time, ARGV[3], ARGV[4], ARGV[5])
if renewed == record then
  renewed = leaseRecord(ARGV[2], time + 1, ARGV[3], ARGV[4], ARGV[5])
end
redis.call('HSET', KEYS[1], ARGV[1], renewed)
return ARGV[2]
