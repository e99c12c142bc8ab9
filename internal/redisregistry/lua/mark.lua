-- Marks a lease as dying that has run out, or is lost already in another
-- shard. Answers 1 if it is dying now. From then on nothing can be added
-- under it: add.lua looks into nodes only. The caller judges, by its own clock,
-- whether the lease has run out; the script checks that it has not been renewed
-- since.
--
-- KEYS: nodes, dying
-- ARGV: node, generation, the record that has run out, or '' if the lease is
--       lost already
local record = redis.call('HGET', KEYS[1], ARGV[1])
local field = ARGV[2] .. ':' .. ARGV[1]
if record and lease(record) == ARGV[2] then
  if ARGV[3] ~= '' and record ~= ARGV[3] then
    return 0
  end
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], field, record)
end
return redis.call('HEXISTS', KEYS[2], field)
