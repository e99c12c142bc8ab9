-- Forgets a lease. One that still has entries is left to be swept, even if its
-- record had been lost.
--
-- KEYS: nodes, dying, index of the lease
-- ARGV: node, generation
local field = ARGV[2] .. ':' .. ARGV[1]
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and lease(record) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  record = redis.call('HGET', KEYS[2], field)
end
redis.call('SREM', KEYS[3], '') -- what shows that the index was not lost
if redis.call('SCARD', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[2], field)
else
  redis.call('HSET', KEYS[2], field, record or leaseRecord(ARGV[2], 0, '0', '0', '0'))
end
return 1
