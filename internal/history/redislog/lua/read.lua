-- Reads the entries that are there, until they have this many bytes. Answers,
-- behind what all do, how many offsets were looked at, and of each entry that is
-- there: offset, epoch in which it was born, links, body.
--
-- KEYS: table, segments...
-- ARGV: those of begin, the most bytes, and for each offset: which of KEYS its
--       segment is, offset
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local bytes, entries = tonumber(ARGV[5]), {}
local i = 6
while i <= #ARGV and bytes > 0 do
  local id = ARGV[i + 1] .. '-0'
  local entry = redis.call('XRANGE', KEYS[tonumber(ARGV[i])], id, id)[1]
  if entry then
    local fields = entry[2]
    entries[#entries + 1] = {tonumber(ARGV[i + 1]), fields[1], fields[2], fields[4]}
    bytes = bytes - #fields[4]
  end
  i = i + 2
end
return {now, epoch, number(numbers[1]), told, (i - 6) / 2, entries}
