-- Removes the oldest segment, if it is due, and some of the topics of
-- which nothing is kept any more. Answers, behind what all do, how many such topics
-- there still are, and the next segment to remove, or -1.
--
-- KEYS: table, the segment if the caller knows it
-- ARGV: those of begin, offsets of a segment, the most topics to remove, number of
--       the segment or -1
local size, topics, named = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local epoch, _, numbers = begin({COUNTER, HORIZON, LAST, ENDED, BYTES})
if not numbers then return epoch end
local horizon, last = number(numbers[2]), number(numbers[3], -1)
local ended, filled = number(numbers[4]), number(numbers[5])

-- due returns the oldest segment if it has to go, or -1. The last one stays. All
-- entries of a segment are older than the one after it.
local function due()
  local n = horizon / size
  if n >= last then return -1 end
  local began = number(redis.call('ZSCORE', t, BEGAN .. text(n + 1)))
  return (ended + filled > room or now - began >= age) and n or -1
end

local n = due()
if n >= 0 and n == named then
  -- First a write that Redis accepts when it is full.
  redis.call('UNLINK', KEYS[2])
  horizon = size * (n + 1)
  ended = ended - number(redis.call('ZSCORE', t, BYTES .. text(n)))
  redis.call('ZADD', t, stored(horizon), HORIZON, stored(ended), ENDED)
  redis.call('ZREM', t, BEGAN .. text(n), BYTES .. text(n))
  n = due()
end
-- Some at a time, because a hundred thousand would block Redis. They do no harm: an
-- offset below the horizon counts for nothing.
local stale = redis.call('ZCOUNT', t, 0, text(horizon))
if stale > 0 then
  local ours = redis.call('ZCOUNT', t, '-inf', '(0')
  redis.call('ZREMRANGEBYRANK', t, ours, ours + math.min(stale, topics) - 1)
end
return {now, epoch, number(numbers[1]), told, math.max(stale - topics, 0), n}
