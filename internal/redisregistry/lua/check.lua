-- Compares what a lease should have with what is there. Answers nothing if the
-- index is lost, else which topics lack the session, counted from 1. It touches
-- the keys, so that they last.
--
-- KEYS: index of the lease, topics...
-- ARGV: generation, how long keys last (ms), the id under each topic...
if redis.call('SISMEMBER', KEYS[1], '') == 0 then
  return false
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local missing = {}
for i = 2, #KEYS do
  local value = redis.call('HGET', KEYS[i], ARGV[i + 1])
  if not value or generationOf(value) ~= ARGV[1] then
    table.insert(missing, i - 1)
  else
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
return missing
