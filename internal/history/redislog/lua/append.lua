-- Appends a batch, all of it or nothing, and publishes it. Answers, behind what
-- all do, outcome and, if the segment is not the right one, which one is.
--
-- KEYS: table, segment
-- ARGV: those of begin, number of the segment, offsets of a segment, what the name
--       of a channel begins with, PUBLISH or SPUBLISH, and for each message: how
--       many topics, below zero if it is not kept, body, topics...
local segment, named, size = KEYS[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local prefix, publish = ARGV[7], ARGV[8]
local first = 9

-- The place of a packet goes into its body: see package packet.
local function packet(body, place)
  return string.sub(body, 1, 3) .. string.char(#place + 2, 2, #place) .. place .. string.sub(body, 5)
end

local TAKEN, WRONG_EPOCH, WRONG_SEGMENT = 1, 2, 3

local names = {COUNTER, HORIZON, LAST, BEGAN, BYTES, ALL}
local last = {} -- offset by topic; where it is in names, at first
local kept, bytes = 0, 0
local i = first
while i <= #ARGV do
  local topics = tonumber(ARGV[i])
  if topics > 0 then
    kept, bytes = kept + 1, bytes + #ARGV[i + 1]
    for k = i + 2, i + 1 + topics do
      local topic = ARGV[k]
      if not last[topic] then
        names[#names + 1] = topic
        last[topic] = #names
      end
    end
  end
  i = i + 2 + math.abs(topics)
end

local epoch, parents, numbers = begin(names)
if not numbers then return epoch end
local counter, horizon, n = number(numbers[1]), number(numbers[2]), number(numbers[3], -1)
if known ~= epoch then
  return {now, epoch, counter, told, WRONG_EPOCH}
end

if kept > 0 then
  local began, filled, all = number(numbers[4]), number(numbers[5]), number(numbers[6])
  local full = n < 0
    or string.match(parents, '^ %x+:(%d+)') == text(counter) -- the epoch is another one
    or counter + kept > size * (n + 1)
    or now - began >= math.floor(age / 8)
    or filled >= math.floor(room / 8)
  if named ~= (full and n + 1 or n) then
    return {now, epoch, counter, told, WRONG_SEGMENT, full and n + 1 or n}
  end
  local changes = {}
  local function set(member, score)
    changes[#changes + 1] = score
    changes[#changes + 1] = member
  end
  if full then
    -- A key that is there already is of a log whose table was lost. If there is
    -- none, the first write has to be one that Redis refuses when it is full.
    if redis.call('EXISTS', segment) == 1 then redis.call('UNLINK', segment) end
    if n >= 0 then set(BYTES .. text(n), stored(filled)) end
    counter, filled = size * named, 0
    set(LAST, stored(named))
    set(BEGAN, stored(now))
    set(BEGAN .. text(named), stored(now))
  end

  for k = 7, #names do
    last[names[k]] = math.max(tonumber(numbers[k] or 0), horizon)
  end
  local channels, packets = {}, {}
  i = first
  while i <= #ARGV do
    local topics, body = tonumber(ARGV[i]), ARGV[i + 1]
    if topics > 0 then
      counter = counter + 1
      local at, links = text(counter), {}
      for k = i + 2, i + 1 + topics do
        local topic = ARGV[k]
        local prev = text(last[topic])
        last[topic] = counter
        links[#links + 1] = prev .. ' ' .. #topic .. ':' .. topic
        channels[#channels + 1] = topic
        packets[#packets + 1] = packet(body, 'k' .. epoch .. ' ' .. at .. ' ' .. prev)
      end
      redis.call('XADD', segment, at .. '-0', epoch, table.concat(links), '', body)
    else
      for k = i + 2, i + 1 - topics do
        channels[#channels + 1] = ARGV[k]
        packets[#packets + 1] = packet(body, 'u' .. epoch .. ' ' .. text(counter))
      end
    end
    i = i + 2 + math.abs(topics)
  end
  set(COUNTER, stored(counter))
  set(BYTES, stored(filled + bytes))
  set(ALL, stored(all + bytes))
  for k = 7, #names do
    set(names[k], last[names[k]])
  end
  redis.call('ZADD', t, unpack(changes))
  redis.call('PEXPIRE', segment, lasts)
  redis.call('PEXPIRE', t, lasts)
  -- Last, for none of this is to be heard of unless all of it is kept.
  for k = 1, #channels do
    local heard = redis.pcall(publish, prefix .. channels[k], packets[k])
    if type(heard) == 'table' then -- it is denied
      return redis.error_reply('KEPT herald: and not published: ' .. heard.err)
    end
  end
  return {now, epoch, counter, told, TAKEN}
end

local place = 'u' .. epoch .. ' ' .. text(counter)
i = first
while i <= #ARGV do
  local topics = -tonumber(ARGV[i])
  for k = i + 2, i + 1 + topics do
    redis.call(publish, prefix .. ARGV[k], packet(ARGV[i + 1], place))
  end
  i = i + 2 + topics
end
return {now, epoch, counter, told, TAKEN}
