-- Takes users who have been gone for a while, each for one caller.
--
-- KEYS: gone
-- ARGV: delay, the most users
local users = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now() - tonumber(ARGV[1])), 'LIMIT', '0', ARGV[2])
for _, user in ipairs(users) do
  redis.call('ZREM', KEYS[1], user)
end
return users
