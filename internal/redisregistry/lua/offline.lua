-- Takes users who have been gone for the delay, each for one caller. Answers the
-- time, and the users. One who went later than now went before the server's time
-- stepped back, and counts as gone from now on.
--
-- KEYS: gone
-- ARGV: delay, the most users, the latest time that it can be if the server's
--       time has not stepped forward, or ''
local time = now()
for _, user in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(time), '+inf', 'LIMIT', '0', ARGV[2])) do
  redis.call('ZADD', KEYS[1], text(time), user)
end
local due = math.min(time, tonumber(ARGV[3]) or time) - tonumber(ARGV[1])
local users = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(due), 'LIMIT', '0', ARGV[2])
for _, user in ipairs(users) do
  redis.call('ZREM', KEYS[1], user)
end
return {text(time), users}
