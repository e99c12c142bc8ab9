-- Stands before every script. Numbers are microseconds or generations, below
-- 2^53 until the year 2255, so Lua's doubles hold them exactly.

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function text(n)
  return string.format('%.0f', n)
end

-- netstring cuts the first <length>:<bytes> off s, and returns both parts, or
-- nil where there is none.
local function netstring(s)
  local n, rest = string.match(s, '^(%d+):(.*)$')
  if n then
    return string.sub(rest, 1, tonumber(n)), string.sub(rest, tonumber(n) + 1)
  end
end

-- header returns generation, since and first answer of a value, all as
-- strings, and what follows them; nil where the value is none of herald's.
local function header(value)
  return string.match(value, '^(%d+) (%-?%d+) ([01]) (.*)$')
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

-- lease returns generation (a string), renewed and ttl of a lease record.
local function lease(record)
  local generation, renewed, ttl = string.match(record, '^(%d+) (%d+) (%-?%d+) ')
  return generation, tonumber(renewed), tonumber(ttl)
end
