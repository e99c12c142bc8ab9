-- Walks chains. Answers, behind what all do, what walk returns.
--
-- KEYS: table, segments...
-- ARGV: those of begin, offsets of a segment, the most entries and bytes, and
--       entries that are answered whole, the offset that is walked down to at most, the
--       number of each segment, and for each topic: where its chain is, where it ends,
--       topic
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local segments = {}
for i = 2, #KEYS do segments[tonumber(ARGV[8 + i])] = KEYS[i] end
local topics, places, stops, n = {}, {}, {}, 0
for i = 9 + #KEYS, #ARGV, 3 do
  n = n + 1
  places[n], stops[n], topics[n] = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
end
local offsets, at, whole, found = walk(topics, places, stops, segments,
  tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]))
return {now, epoch, number(numbers[1]), told, offsets, at, whole, found}
