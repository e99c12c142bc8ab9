-- Answers where a log ends, and what it knows of a point and of topics. It also walks the
-- chains of the topics, if there are segments among its keys, the point is one of this
-- epoch, nothing is forgotten, and there are not too many chains.
--
-- Answers, behind what all do, horizon, up to where the log has what the epoch of the
-- point had ('' if that is unknown), the last offset of each topic, up to where each is
-- forgotten (nothing if none is), and what walk returns. If it did not walk, that is
-- no offsets and no places.
--
-- KEYS: table, segments...
-- ARGV: those of begin, epoch and offset of the point, the most chains, offsets of a
--       segment, the most entries and bytes, and entries that are answered whole, the
--       offset that is walked down to at most, the number of each segment, topics...
local before = 11 + #KEYS -- arguments that stand before the topics
local names = {COUNTER, HORIZON, FORGOT}
for i = before + 1, #ARGV do
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

local seen, places, whole, found = {}, {}, 1, {}
local from = tonumber(ARGV[6])
if #KEYS > 1 and epoch == ARGV[5] and #cuts == 0 then
  local topics, at, stops, n = {}, {}, {}, 0
  local stop = math.max(from, horizon)
  for i, last in ipairs(ends) do
    if last > stop then
      n = n + 1
      topics[n], at[n], stops[n] = ARGV[before + i], text(last), stop
    end
  end
  if n <= tonumber(ARGV[7]) then
    local segments = {}
    for i = 2, #KEYS do segments[tonumber(ARGV[11 + i])] = KEYS[i] end
    seen, places, whole, found = walk(topics, at, stops, segments,
      tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]))
  end
end
return {now, epoch, counter, told, horizon, survived(ARGV[5], epoch, counter, parents) or '', ends, cuts,
  seen, places, whole, found}
