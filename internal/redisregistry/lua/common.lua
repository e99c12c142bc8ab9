-- Stands before every script. Numbers are microseconds or generations, below
-- 2^53 until the year 2255, so Lua's doubles hold them exactly.

-- format begins every value and every lease record. Anything else is not ours, or is
-- of a later version of herald.
local format = '1'

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function text(n)
  return string.format('%.0f', n)
end

-- credible returns s as a number if the server's clock, which is at time now, can
-- have given it: digits, and not far in the future.
local year = 366 * 86400 * 1000000
local function credible(s, time)
  local n = s and #s <= 16 and string.match(s, '^%d+$') and tonumber(s)
  return n and n < time + year and n or nil
end

-- netstring cuts the first <length>:<bytes> off s, and returns both parts, or
-- nil if there is none.
local function netstring(s)
  local n, rest = string.match(s, '^(%d+):(.*)$')
  if n then
    return string.sub(rest, 1, tonumber(n)), string.sub(rest, tonumber(n) + 1)
  end
end

-- peek is GET of a key that may not exist. Scripts do not name it in KEYS: while a
-- Cluster moves a shard, a command waits if only some of its keys are there. A key
-- that may have moved counts as missing: who watches notices a change without a
-- number within a lease. A key of the wrong type is deleted.
local function peek(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'table' then return value end
  if string.find(value.err, 'WRONGTYPE', 1, true) then
    redis.call('UNLINK', key)
  elseif not string.find(value.err, 'non local key', 1, true) then
    error(value.err, 0)
  end
  return false
end

-- isWatched says whether somebody watches any topic of this one's shard.
local function isWatched(topic)
  return peek((string.gsub(topic, '}:t:.*', '}:watched', 1)))
end

-- lastChange returns the number of the last change of a topic, or nil if nobody
-- watches the topic.
local function lastChange(topic)
  local last = peek((string.gsub(topic, '}:t:', '}:w:', 1)))
  return last and (credible(last, now()) or now()) or nil
end

-- count gives a change its number, behind the last one. It is called before the
-- change is made: a script may be cut short if a Cluster moves the shard, and a
-- number without a change does no harm.
local function count(topic, last)
  local number = text(last + 1)
  local mark = string.gsub(topic, '}:t:', '}:w:', 1)
  redis.call('SET', mark, number, 'KEEPTTL')
  return number
end

-- header returns generation, since and first answer of a value, all as
-- strings, and what follows them; nil if the value is none of ours.
local function header(value)
  return string.match(value, '^' .. format .. ' (%d+) (%-?%d+) ([01]) (.*)$')
end

-- generationOf returns the generation of a value, a string, or nil.
local function generationOf(value)
  return (string.match(value, '^' .. format .. ' (%d+) '))
end

-- owner returns the node and the user of a value, or nil.
local function owner(value)
  local _, _, _, rest = header(value)
  if not rest then
    return nil
  end
  local node, tail = netstring(rest)
  if node then
    return node, (netstring(tail))
  end
end

-- lease returns the generation of a lease record, a string, or nil.
local function lease(record)
  return (string.match(record, '^' .. format .. ' (%d+) %d+ %-?%d+ '))
end

-- hasRunOut says whether a lease record has run out by the server's time.
-- None lasts longer than a day.
local function hasRunOut(record, time)
  local renewed, ttl = string.match(record, '^' .. format .. ' %d+ (%d+) (%-?%d+) ')
  return renewed and time >= tonumber(renewed) + math.min(tonumber(ttl), 86400 * 1000000)
end

-- leaseRecord returns a record that is renewed now. A later version may append
-- fields, which this one skips.
local function leaseRecord(generation, time, ttl, conns, version)
  return table.concat({format, generation, text(time), ttl, conns, version}, ' ')
end
