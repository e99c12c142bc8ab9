-- Renews a lease, or takes a new one for generation '0'. Answers the
-- generation, or nothing where the lease is lost.
--
-- KEYS: nodes, dying, the last generation
-- ARGV: node, generation, ttl, connections, version
local node, generation = ARGV[1], ARGV[2]
local record = redis.call('HGET', KEYS[1], node)
local time = now()
if generation == '0' then
  if record and lease(record) then
    redis.call('HSET', KEYS[2], lease(record) .. ':' .. node, record)
  end
  -- The clock, not a bare counter: Redis may have come back empty.
  local last = tonumber(redis.call('GET', KEYS[3]) or '0')
  generation = text(math.max(time, last + 1))
  redis.call('SET', KEYS[3], generation)
elseif not record or lease(record) ~= generation then
  return false
end
redis.call('HSET', KEYS[1], node, generation .. ' ' .. text(time) .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
return generation
