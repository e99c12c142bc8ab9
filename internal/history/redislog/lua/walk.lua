-- Walks the chains of topics, always the one that is at the highest offset. It
-- ends early at a segment that is not among its keys, after so many entries or so
-- many bytes. Answers, behind what all do, the offsets that it saw to be there,
-- falling, where each chain is now, 0 if it is at its end, whether none broke, and, if
-- the entries are few enough, of each the epoch in which it was born, links and body.
--
-- KEYS: table, segments...
-- ARGV: those of begin, offsets of a segment, the most entries and bytes, and
--       entries that are answered whole, the number of each segment, and for each
--       topic: where its chain is, where it ends, topic
local size, entries, bytes, few = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local segments = {} -- key by number
for i = 2, #KEYS do
  segments[tonumber(ARGV[7 + i])] = KEYS[i]
end

local waiting = {} -- rising: where chains are
local chains = {} -- by where they are: numbers of topics
local function put(chain, at)
  if chains[at] then
    table.insert(chains[at], chain)
    return
  end
  chains[at] = {chain}
  local i = #waiting + 1
  while i > 1 and waiting[i - 1] > at do i = i - 1 end
  table.insert(waiting, i, at)
end

local places, stops, topics = {}, {}, {}
for i = 8 + #KEYS, #ARGV, 3 do
  topics[#topics + 1] = ARGV[i + 2]
  stops[#topics] = tonumber(ARGV[i + 1])
  places[#topics] = 0
  put(#topics, tonumber(ARGV[i]))
end

local offsets, found, whole = {}, {}, 1
while #waiting > 0 and entries > 0 and bytes > 0 do
  local at = waiting[#waiting]
  local segment = segments[math.floor((at - 1) / size)]
  if not segment then break end
  local entry = redis.call('XRANGE', segment, text(at) .. '-0', text(at) .. '-0')[1]
  local here = chains[at]
  waiting[#waiting], chains[at] = nil, nil
  if entry then
    local fields = entry[2]
    local before = prevs(fields[2])
    for _, chain in ipairs(here) do
      local prev = before[topics[chain]] or 0
      if prev > stops[chain] then put(chain, prev) end
    end
    offsets[#offsets + 1] = at
    if #offsets <= few then found[#offsets] = {fields[1], fields[2], fields[4]} end
    bytes = bytes - #fields[4]
  else
    whole = 0
  end
  entries = entries - 1
end
for at, here in pairs(chains) do
  for _, chain in ipairs(here) do places[chain] = at end
end
if #offsets > few then found = {} end
return {now, epoch, number(numbers[1]), told, offsets, places, whole, found}
