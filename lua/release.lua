-- Forgets a lease; one that still has entries is left to be swept.
--
-- KEYS: nodes, dying, index of the lease
-- ARGV: node, generation
local record = redis.call('HGET', KEYS[1], ARGV[1])
local field = ARGV[2] .. ':' .. ARGV[1]
if record and lease(record) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], field, record)
end
if redis.call('SCARD', KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[2], field)
end
return 1
