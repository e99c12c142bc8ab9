-- Says where a log ends, and what it knows of a point and of topics. Answers
-- time, epoch, counter, horizon, up to where the log has what the epoch of the
-- point had ('' if that is unknown), and the last offset of each topic.
--
-- KEYS: table
-- ARGV: those of begin, the epoch of the point, topics...
local names = {COUNTER, HORIZON}
for i = 6, #ARGV do
  names[#names + 1] = ARGV[i]
end
local epoch, parents, numbers = begin(names)
if not numbers then return epoch end
local counter = number(numbers[1])
local lasts = {}
for i = 3, #names do
  lasts[#lasts + 1] = tonumber(numbers[i] or 0)
end
return {now, epoch, counter, number(numbers[2]), survived(ARGV[5], epoch, counter, parents) or '', lasts}
