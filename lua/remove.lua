-- Takes one session away from topics, whichever lease placed it.
--
-- KEYS: gone, topics...
-- ARGV: what the key of an index begins with, id, '1' where the first topic
--       is the user's, index members of the topics...
for i = 2, #KEYS do
  local value = redis.call('HGET', KEYS[i], ARGV[2])
  if value then
    redis.call('HDEL', KEYS[i], ARGV[2])
    local generation = header(value)
    local node, user = owner(value)
    if node then
      redis.call('SREM', ARGV[1] .. generation .. ':' .. node, ARGV[i + 2])
    end
    if i == 2 and ARGV[3] == '1' and user and redis.call('EXISTS', KEYS[i]) == 0 then
      redis.call('ZADD', KEYS[1], text(now()), user)
    end
  end
end
return 1
