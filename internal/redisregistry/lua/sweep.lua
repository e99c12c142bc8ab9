-- Removes some of the entries of a dying lease. Answers the changes as topic,
-- number, topic, number, topics counted from 1. What removes a member from the
-- index comes last: a script may be cut short if a Cluster moves the shard.
--
-- KEYS: gone, index of the lease, topics...
-- ARGV: generation, then for each topic: index member, id, '1' if the
--       topic is the user's
local time = text(now())
local firstTopic = 3
local watched, changes = isWatched(KEYS[firstTopic]), {}
for i = firstTopic, #KEYS do
  local at = 2 + (i - firstTopic) * 3
  local member, id, isUser = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local value = redis.call('HGET', KEYS[i], id)
  if value and header(value) == ARGV[1] then
    local _, user = owner(value)
    if isUser == '1' and user and redis.call('HLEN', KEYS[i]) == 1 then
      redis.call('ZADD', KEYS[1], time, user)
    end
    local last = watched and lastChange(KEYS[i])
    if last then
      table.insert(changes, i - firstTopic + 1)
      table.insert(changes, count(KEYS[i], last))
    end
    redis.call('HDEL', KEYS[i], id)
  end
  redis.call('SREM', KEYS[2], member)
end
return changes
