-- Says where a log ends, and what it knows of a point and of topics. Answers,
-- behind what all do, horizon, up to where the log has what the epoch of the point
-- had ('' if that is unknown), the last offset of each topic, and up to where each
-- is forgotten (nothing if none is).
--
-- KEYS: table
-- ARGV: those of begin, the epoch of the point, topics...
local names = {COUNTER, HORIZON, FORGOT}
for i = 6, #ARGV do
  names[#names + 1] = ARGV[i]
end
local epoch, parents, numbers = begin(names)
if not numbers then return epoch end
local counter, horizon, forgot = number(numbers[1]), number(numbers[2]), number(numbers[3])

local function offsets(scores, first)
  local found = {}
  for i = first, #names do
    found[#found + 1] = tonumber(scores[i] or 0)
  end
  return found
end

local ends, cuts = offsets(numbers, 4), {}
if forgot > horizon then
  for i = 4, #names do names[i] = FORGOT .. names[i] end
  cuts = offsets(redis.call('ZMSCORE', t, unpack(names)), 4)
end
return {now, epoch, counter, told, horizon, survived(ARGV[5], epoch, counter, parents) or '', ends, cuts}
