-- Takes one session away from topics, whichever lease placed it. Answers the
-- changes as topic, number, topic, number, topics counted from 1. What removes
-- the value comes last: a script may be cut short if a Cluster moves the
-- shard, and is then run again.
--
-- KEYS: gone, index of the lease that most likely placed it, topics...
-- ARGV: what the key of an index begins with, id, '1' if the first topic
--       is the user's, index members of the topics...
local firstTopic = 3
local watched, changes = isWatched(KEYS[firstTopic]), {}
for i = firstTopic, #KEYS do
  local value = redis.call('HGET', KEYS[i], ARGV[2])
  if value then
    local generation = header(value)
    local node, user = owner(value)
    if i == firstTopic and ARGV[3] == '1' and user and redis.call('HLEN', KEYS[i]) == 1 then
      redis.call('ZADD', KEYS[1], text(now()), user)
    end
    if node then
      local removed = redis.pcall('SREM', ARGV[1] .. generation .. ':' .. node, ARGV[i - firstTopic + 4])
      -- An index of the wrong type is lost, and its node finds that out.
      if type(removed) == 'table' and not string.find(removed.err, 'WRONGTYPE', 1, true) then
        return removed
      end
    end
    local last = watched and lastChange(KEYS[i])
    if last then
      table.insert(changes, i - firstTopic + 1)
      table.insert(changes, count(KEYS[i], last))
    end
    redis.call('HDEL', KEYS[i], ARGV[2])
  end
end
return changes
