-- Appends a batch, all of it or nothing, and publishes it. Answers, behind what
-- all do, outcome and, if the segment is not the right one, which one is.
--
-- KEYS: table, segment
-- ARGV: those of begin, number of the segment, offsets of a segment, what the name
--       of a channel begins with, PUBLISH or SPUBLISH, and for each message: how
--       many topics, negated if it is not kept, body, topics...
local segment, named, size = KEYS[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local prefix, publish = ARGV[7], ARGV[8]
local first, ends = 9, #ARGV

local TAKEN, WRONG_EPOCH, WRONG_SEGMENT = 1, 2, 3

-- What follows runs for each message, so globals are looked up once, and no text is
-- made twice.
local ARGV, tonumber, sub, byte, format = ARGV, tonumber, string.sub, string.byte, string.format

local names = {COUNTER, HORIZON, LAST, BEGAN, BYTES}
local own = #names
local all = own -- of the table's own names and the topics
local last = {} -- offset by topic, as text
local kept, bytes = 0, 0
local i = first
while i <= ends do
  local topics = tonumber(ARGV[i])
  if topics > 0 then
    kept, bytes = kept + 1, bytes + #ARGV[i + 1]
    for k = i + 2, i + 1 + topics do
      local topic = ARGV[k]
      if not last[topic] then
        all = all + 1
        names[all], last[topic] = topic, '0'
      end
    end
    i = i + 2 + topics
  else
    i = i + 2 - topics
  end
end

local epoch, parents, numbers = begin(names)
if not numbers then return epoch end
local counter, horizon, n = number(numbers[1]), number(numbers[2]), number(numbers[3], -1)
if known ~= epoch then
  return {now, epoch, counter, told, WRONG_EPOCH}
end

local changes, c = {}, 0
local function set(member, score)
  changes[c + 1], changes[c + 2] = score, member
  c = c + 2
end

local filled, full = number(numbers[5]), false
if kept > 0 then
  full = n < 0
    or parents ~= '' and string.match(parents, '^ %x+:(%d+)') == text(counter) -- the epoch has no entry yet
    or counter + kept > size * (n + 1)
    or now - number(numbers[4]) >= math.floor(age / 8)
    or filled >= math.floor(room / 8)
  if named ~= (full and n + 1 or n) then
    return {now, epoch, counter, told, WRONG_SEGMENT, full and n + 1 or n}
  end
end
if full then
  -- A key that exists already is that of a log whose table was lost. If there is
  -- none, the first write must be one that Redis refuses when it is full.
  if redis.call('EXISTS', segment) == 1 then redis.call('UNLINK', segment) end
  if n >= 0 then
    set(BYTES .. text(n), stored(filled))
    set(ENDED, stored(number(redis.call('ZSCORE', t, ENDED)) + filled))
  end
  counter, filled = size * named, 0
  set(LAST, stored(named))
  set(BEGAN, stored(now))
  set(BEGAN .. text(named), stored(now))
end

local below = text(horizon)
for k = own + 1, all do
  local prev = numbers[k]
  last[names[k]] = prev and tonumber(prev) > horizon and prev or below
end

-- What is published: channels and packets in turn. A packet is the body with its
-- place in it, in the form of package packet. The body's extensions follow the place.
local messages, count = {}, 0
local befores = {} -- the bytes before a place, by its length and that of what follows it
local function before(length, more)
  local all = length + 2 + more
  local bytes
  if all < 128 then
    bytes = string.char(all, 2, length)
  else
    bytes = string.char(all % 128 + 128, math.floor(all / 128), 2, length)
  end
  befores[length + 128 * more] = bytes
  return bytes
end

local lengths = {} -- ' <length>:' by length of a topic
local at = text(counter)
local here, passing = 'k' .. epoch .. ' ', 'u' .. epoch .. ' '
local call = redis.call
i = first
while i <= ends do
  local topics, body = tonumber(ARGV[i]), ARGV[i + 1]
  local more = byte(body, 4) or 0
  local head, rest = sub(body, 1, 3), sub(body, 5)
  if topics > 0 then
    counter = counter + 1
    at = format('%d', counter)
    local placed, links = here .. at .. ' ', ''
    for k = i + 2, i + 1 + topics do
      local topic = ARGV[k]
      local prev, n = last[topic], #topic
      last[topic] = at
      local length = lengths[n]
      if not length then
        length = ' ' .. n .. ':'
        lengths[n] = length
      end
      links = links .. prev .. length .. topic
      local size = #placed + #prev
      messages[count + 1] = prefix .. topic
      messages[count + 2] = head .. (befores[size + 128 * more] or before(size, more)) .. placed .. prev .. rest
      count = count + 2
    end
    call('XADD', segment, at .. '-0', epoch, links, '', body)
    i = i + 2 + topics
  else
    local place = passing .. at
    local packet = head .. (befores[#place + 128 * more] or before(#place, more)) .. place .. rest
    for k = i + 2, i + 1 - topics do
      messages[count + 1], messages[count + 2] = prefix .. ARGV[k], packet
      count = count + 2
    end
    i = i + 2 - topics
  end
end
if kept > 0 then
  set(COUNTER, stored(counter))
  set(BYTES, stored(filled + bytes))
  for k = own + 1, all do
    local topic = names[k]
    changes[c + 1], changes[c + 2] = last[topic], topic
    c = c + 2
  end
  redis.call('ZADD', t, unpack(changes))
  redis.call('PEXPIRE', segment, lasts)
  if full then redis.call('PEXPIRE', t, lasts) end -- each fence renews it, too
end
-- Last, because none of this may be heard unless all of it is kept.
local pcall = redis.pcall
for k = 1, count, 2 do
  local heard = pcall(publish, messages[k], messages[k + 1])
  if type(heard) == 'table' then -- PUBLISH is denied
    if kept == 0 and k == 1 then return heard end
    return redis.error_reply('KEPT herald: and not published: ' .. heard.err)
  end
end
return {now, epoch, counter, told, TAKEN}
