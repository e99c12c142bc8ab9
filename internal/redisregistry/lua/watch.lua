-- Marks a topic as watched. Answers the number of its last change, what lies under
-- it as id, value, id, value, and how many stored numbers are not credible. A mark that
-- is new begins at the time, above all numbers that were given before.
--
-- KEYS: watched, mark of the topic, topic
-- ARGV: for how long (ms)
local function mark(key, value)
  local left = redis.call('PTTL', key)
  redis.call('SET', key, value, 'PX', text(math.max(left, tonumber(ARGV[1]))))
end

local time = now()
local stored = redis.call('GET', KEYS[2])
local last = credible(stored, time)
local number = text(last or time)
mark(KEYS[1], '1')
mark(KEYS[2], number)
return {number, redis.call('HGETALL', KEYS[3]), stored and not last and 1 or 0}
