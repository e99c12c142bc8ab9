-- Marks a lease as dying, which has run out or is lost already in another
-- shard. Answers 1 where it is dying now. From then on nothing can be added
-- under it: add.lua looks into nodes only.
--
-- KEYS: nodes, dying
-- ARGV: node, generation, '1' where it is lost already
local record = redis.call('HGET', KEYS[1], ARGV[1])
local field = ARGV[2] .. ':' .. ARGV[1]
if record then
  local generation, renewed, ttl = lease(record)
  if generation == ARGV[2] then
    if ARGV[3] ~= '1' and now() < renewed + ttl then
      return 0
    end
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HSET', KEYS[2], field, record)
  end
end
return redis.call('HEXISTS', KEYS[2], field)
