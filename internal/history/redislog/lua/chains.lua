-- Stands before the scripts that walk chains.

-- walk walks the chains of topics, always the one that is at the highest offset.
-- places has where they are, as text, and stops where they end. It stops early at an
-- offset that is not above bottom, at a segment that is not among segments, which has
-- keys by number, or after this many entries or bytes. It returns the offsets at which
-- it found entries, falling; where each chain is now, 0 if it is at its end; whether
-- none broke; and, if there are at most few entries, of each the epoch in which it was
-- born, links and body.
local function walk(topics, places, stops, segments, size, entries, bytes, few, bottom)
  local waiting, n = {}, 0 -- where chains are, rising
  local first, after = {}, {} -- first: a chain, by where it is; after: the next chain at the same place, by chain
  local function put(chain, at)
    after[chain] = first[at]
    if not first[at] then
      local i = n
      while i > 0 and waiting[i] > at do
        waiting[i + 1] = waiting[i]
        i = i - 1
      end
      waiting[i + 1] = at
      n = n + 1
    end
    first[at] = chain
  end
  for chain = 1, #topics do put(chain, tonumber(places[chain])) end

  -- What follows runs for each entry, so globals are looked up once, and no number is
  -- converted back to the text that it was.
  local call, match, sub, tonumber, floor = redis.call, string.match, string.sub, tonumber, math.floor
  local offsets, seen, found, whole = {}, 0, {}, 1
  while n > 0 and entries > 0 and bytes > 0 do
    local at = waiting[n]
    local segment = segments[floor((at - 1) / size)]
    if not segment or at <= bottom then break end
    local chain = first[at]
    waiting[n], first[at] = nil, nil
    n = n - 1
    local id = places[chain]
    local entry = call('XRANGE', segment, id, id, 'COUNT', 1)[1]
    local fields = entry and entry[2]
    local one, topic, all -- the first link, and all if there are more
    if fields then
      local links = fields[2]
      local prev, _, from = match(links, '^(%d+) (%d+):()')
      one, topic = prev, sub(links, from)
      seen = seen + 1
      offsets[seen] = at
      if seen <= few then
        found[3 * seen - 2], found[3 * seen - 1], found[3 * seen] = fields[1], links, fields[4]
      end
      bytes = bytes - #fields[4]
    else
      whole = 0
    end
    repeat
      local follows, prev = after[chain]
      if topic == topics[chain] then
        prev = one
      elseif fields then
        all = all or prevs(fields[2])
        prev = all[topics[chain]]
      end
      local place = tonumber(prev or 0)
      if place > stops[chain] then
        places[chain] = prev
        put(chain, place)
      else
        places[chain] = 0
      end
      chain = follows
    until not chain
    entries = entries - 1
  end
  for chain, place in ipairs(places) do places[chain] = tonumber(place) end
  if seen > few then found = {} end
  return offsets, places, whole, found
end
