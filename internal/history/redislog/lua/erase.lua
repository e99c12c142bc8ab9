-- Removes entries whose topics are all forgotten. Answers what all do.
--
-- KEYS: table, segments...
-- ARGV: those of begin, and for each offset: which of KEYS its segment is, offset
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
for i = 5, #ARGV, 2 do
  local segment, at = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1])
  local id = text(at) .. '-0'
  local entry = redis.call('XRANGE', segment, id, id)[1]
  if entry then
    local names = {}
    for topic in pairs(prevs(entry[2][2])) do
      names[#names + 1] = FORGOT .. topic
    end
    local wanted = false
    for _, upTo in ipairs(redis.call('ZMSCORE', t, unpack(names))) do
      wanted = wanted or tonumber(upTo or 0) < at
    end
    if not wanted then redis.call('XDEL', segment, id) end
  end
end
return {now, epoch, number(numbers[1]), told}
