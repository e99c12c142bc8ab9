-- Stands before every script, which runs begin first.
--
-- KEYS[1] is the table, a sorted set. The score of a topic is its last offset.
-- What else it has are members that begin with a NUL, as no topic does:
--   '1 <epoch> <server> <agreement>[ <parent>:<at>...]', the head, newest parent
--   first, whose score is -inf; numbers by name, whose scores are below zero: see
--   stored; FORGOT .. topic, whose score is up to where the topic is forgotten; and
--   HOME .. <server> <node of the Cluster>, whose score is AT_HOME.
--   The segments from horizon/size to LAST are there, without a hole.
--
-- KEYS[2] and so on are segments: streams. The entry at an offset has the ID
-- <offset>-0 and two fields. The first one's name is the epoch in which the
-- entry was born, which a stream keeps once for many entries; it has
-- '<prev> <length>:<topic>' for each topic. The second one has the body.
--
-- ARGV: epoch and offset that the caller knows, a fresh epoch, and the agreement
-- that it knows, '<version> <age> <bytes>' of what is kept (store.Agreement).
-- Epochs are hexadecimal. Numbers are below 2^53, and doubles hold them.
--
-- Each answers time, epoch, counter, the agreement if the caller knows another
-- one, or '', and more.
local t = KEYS[1]
local known, acknowledged, fresh, agreed = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local age, room, lasts -- (ms), bytes of what is kept, and how long keys last (ms)
local told = '' -- the agreement, if the caller knows another one

local COUNTER, HORIZON = '\0c', '\0h'
local LAST, BEGAN, BYTES = '\0n', '\0b', '\0z' -- the last segment's number, when it began, its bytes
local ENDED = '\0a' -- bytes of the segments before the last one
local FORGOT = '\0f' -- up to where some topic is forgotten
local HOME, AT_HOME = '\0i', '-0.5' -- which node of the Cluster the head's server is
-- Of a segment: BEGAN .. n, and BYTES .. n if it is not the last.

-- stored turns a number into its score.
local function stored(n) return -1 - n end

-- number turns a score into its number. If there is no score, it returns 0, or
-- otherwise.
local function number(score, otherwise)
  return score and stored(tonumber(score)) or otherwise or 0
end

local function text(n) return string.format('%d', n) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- serverID returns the replication ID of a master. miniredis has none.
local function serverID()
  local info = redis.pcall('INFO', 'replication')
  if type(info) == 'string' then
    local _, last = string.find(info, 'master_replid:', 1, true)
    return last and string.find(info, 'role:master', 1, true) and string.match(info, '^%x+', last + 1)
  end
  return string.find(info.err, 'is not supported', 1, true) and '0'
end

-- node returns the id, the flags and the slots of a node of the Cluster: the one with
-- the id, or this one if there is no id. It returns nothing if they are not known.
local function node(id)
  local nodes = redis.pcall('CLUSTER', 'NODES')
  if type(nodes) ~= 'string' then return end
  for line in string.gmatch(nodes, '[^\n]+') do
    local name, flags, slots = string.match(line, '^(%x+) %S+ (%S+) %S+ %S+ %S+ %S+ %S+ ?(.*)$')
    if name and (name == id or not id and string.find(flags, 'myself', 1, true)) then
      return name, flags .. ',', slots
    end
  end
end

-- moved says whether the table has come with its slot from another master, whose
-- replication ID was at. Then nothing is lost. Such a master still has other slots,
-- which one that was replaced does not, and this server was not its replica.
local function moved(at)
  local home = redis.call('ZRANGE', t, AT_HOME, AT_HOME, 'BYSCORE')[1]
  local of = HOME .. at .. ' '
  if not home or string.sub(home, 1, #of) ~= of then return false end
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' or string.match(info, 'master_replid2:(%x+)') == at then return false end
  local name, flags, slots = node(string.sub(home, #of + 1))
  return name and string.find(flags, 'master', 1, true) and not string.find(flags, 'myself', 1, true)
    and not string.find(flags, 'fail,', 1, true) and string.find(slots, '^%d') and true
end

-- settle notes which node of the Cluster the head's server is.
local function settle(server)
  local old, id = redis.call('ZRANGE', t, AT_HOME, AT_HOME, 'BYSCORE')[1], node()
  if old then redis.call('ZREM', t, old) end
  if id then redis.call('ZADD', t, AT_HOME, HOME .. server .. ' ' .. id) end
end

-- agree returns the agreement that counts. has is the one in the table, if there is
-- one. It also sets what follows from the agreement.
local function agree(has)
  local counts = has or '0'
  if counts ~= agreed then
    local version, wanted = string.match(agreed, '^(%d+)(.*)$')
    local last, kept = string.match(counts, '^(%d+)(.*)$')
    if version == '0' and wanted ~= kept then
      counts = text(last + 1) .. wanted
    elseif tonumber(version) > tonumber(last) then
      counts = agreed
    end
    if counts ~= agreed then told = counts end
  end
  local a, b = string.match(counts, ' (%d+) (%d+)$')
  age, room = tonumber(a), tonumber(b)
  -- Twice, because a segment takes entries for a while. A node that works renews the
  -- table by its fences, if they come once a minute.
  lasts = text(2 * age + 60000)
  return counts
end

local function write(epoch, server, agreement, parents)
  return '\0' .. table.concat({'1', epoch, server, agreement}, ' ') .. parents
end

-- survived returns up to where the table has what an epoch had, or nil.
local function survived(epoch, own, counter, parents)
  if epoch == own then return counter end
  return tonumber((string.match(parents, ' ' .. epoch .. ':(%d+)')))
end

-- begin makes sure that there is a table, in an epoch in which it has lost nothing,
-- or in the next one if renewed is its epoch. It returns the epoch, its parents and
-- the numbers of names, of which COUNTER is the first. If it fails it has changed
-- nothing.
local function begin(names, renewed)
  local server = serverID()
  if not server then -- READONLY has the caller's connection closed
    return redis.error_reply('READONLY herald: this is no master that tells its replication ID')
  end
  local head = redis.call('ZRANGE', t, 0, 0)[1]
  if not head then
    redis.call('ZADD', t, '-inf', write(fresh, server, agree(), ''), stored(0), COUNTER, stored(0), HORIZON)
    redis.call('PEXPIRE', t, lasts)
    settle(server)
    return fresh, '', redis.call('ZMSCORE', t, unpack(names))
  end
  local epoch, at, has, parents = known, server, agreed
  local usual = write(known, server, agreed, '') -- if the caller knows all of it
  if head == usual then
    parents = ''
  elseif string.sub(head, 1, #usual + 1) == usual .. ' ' then
    parents = string.sub(head, #usual + 1)
  else
    epoch, at, has, parents = string.match(head, '^1 (%x+) (%x+) (%d+ %d+ %d+)(.*)$', 2)
  end
  if not epoch then
    return redis.error_reply('ERR herald: the table is of another version')
  end
  local numbers = redis.call('ZMSCORE', t, unpack(names))
  local counter = number(numbers[1])
  local there = survived(known, epoch, counter, parents)
  local agreement = agree(has)
  local changed = agreement ~= has
  if at ~= server and not moved(at) or renewed == epoch or acknowledged > 0 and acknowledged > (there or -1) then
    if epoch == fresh then
      return redis.error_reply('ERR herald: a call was repeated')
    end
    parents = ' ' .. epoch .. ':' .. text(counter) .. parents
    parents = string.match(parents, '^' .. string.rep(' %x+:%d+', 8)) or parents
    epoch, changed = fresh, true
  end
  if changed or at ~= server then
    redis.call('ZADD', t, '-inf', write(epoch, server, agreement, parents))
    redis.call('ZREM', t, head)
    redis.call('PEXPIRE', t, lasts)
    if at ~= server then settle(server) end
  end
  return epoch, parents, numbers
end
