-- Stands before every script, which runs begin first.
--
-- KEYS[1] is the table, a sorted set. The score of a topic is its last offset.
-- What else it has are members that begin with a NUL, as no topic does:
--   '1 <epoch> <server>[ <parent>:<at>...]', the head, newest parent first,
--   whose score is -inf, and numbers by name, whose scores are below zero: see
--   stored. The segments from horizon/size to LAST are there, without a hole.
--
-- KEYS[2] and so on are segments: streams. The entry at an offset has the ID
-- <offset>-0 and two fields. The first one's name is the epoch in which the
-- entry was born, which a stream keeps once for many entries; it has
-- '<prev> <length>:<topic>' for each topic. The second one has the body.
--
-- ARGV: epoch and offset that the caller knows, a fresh epoch, how long keys
-- last (ms). Epochs are hexadecimal. Numbers are below 2^53, and doubles hold
-- them.
local t = KEYS[1]
local known, acknowledged, fresh, lasts = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local COUNTER, HORIZON = '\0c', '\0h'
local LAST, BEGAN, BYTES = '\0n', '\0b', '\0z' -- the last segment's number, when it began, its bytes
local ALL = '\0a' -- bytes of all segments
-- Of a segment: BEGAN .. n, and BYTES .. n if it is not the last.

-- stored turns a number into its score.
local function stored(n) return -1 - n end

-- number turns a score into its number. One that is not there is 0, or another.
local function number(score, otherwise)
  return score and stored(tonumber(score)) or otherwise or 0
end

local function text(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- serverID returns the replication ID. miniredis has none.
local function serverID()
  local info = redis.pcall('INFO', 'replication')
  if type(info) == 'string' then
    return string.match(info, 'master_replid:(%x+)')
  end
  return string.find(info.err, 'is not supported', 1, true) and '0'
end

-- survived returns up to where the table has what an epoch had, or nil.
local function survived(epoch, own, counter, parents)
  if epoch == own then return counter end
  return tonumber((string.match(parents, ' ' .. epoch .. ':(%d+)')))
end

-- begin sees to it that there is a table, in an epoch in which it has lost
-- nothing. It returns the epoch, its parents and the numbers of names, of which
-- COUNTER is the first. What fails has changed nothing.
local function begin(names)
  local server = serverID()
  if not server then
    return redis.error_reply('ERR herald: INFO replication does not tell the replication ID')
  end
  local head = redis.call('ZRANGE', t, 0, 0)[1]
  if not head then
    redis.call('ZADD', t, '-inf', '\0' .. '1 ' .. fresh .. ' ' .. server, stored(0), COUNTER, stored(0), HORIZON)
    redis.call('PEXPIRE', t, lasts)
    return fresh, '', redis.call('ZMSCORE', t, unpack(names))
  end
  local epoch, at, parents = string.match(head, '^1 (%x+) (%x+)(.*)$', 2)
  if not epoch then
    return redis.error_reply('ERR herald: the table is of another version')
  end
  local numbers = redis.call('ZMSCORE', t, unpack(names))
  local counter = number(numbers[1])
  local has = survived(known, epoch, counter, parents)
  if at ~= server or acknowledged > 0 and acknowledged > (has or -1) then
    parents = ' ' .. epoch .. ':' .. text(counter) .. parents
    parents = string.match(parents, '^' .. string.rep(' %x+:%d+', 8)) or parents
    epoch = fresh
    redis.call('ZADD', t, '-inf', '\0' .. '1 ' .. epoch .. ' ' .. server .. parents)
    redis.call('ZREM', t, head)
    redis.call('PEXPIRE', t, lasts)
  end
  return epoch, parents, numbers
end
