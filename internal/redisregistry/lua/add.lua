-- Places one session under its topics. Answers nothing if the lease is lost,
-- else since, whether the user came online, some of the sessions of the user
-- as id, value, id, value, how many there are, how many stored numbers are not
-- credible, and the changes as topic, number, topic, number, topics counted from 1.
--
-- KEYS: nodes, dying, index of the lease, gone, clock, topics...
-- ARGV: node, generation, id, since or '', user, body of the value,
--       '1' if the first topic is the user's, the most sessions to answer,
--       how long keys last (ms), index members of the topics...
local nodes, dying, index, gone, clock = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local node, generation, id, since, user, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local isUser, limit, lasts = ARGV[7] == '1', tonumber(ARGV[8]), ARGV[9]
local firstTopic, firstMember = 6, 10
local many = 1000 -- fields of a hash: more are not looked at unless that is asked for

local record = redis.call('HGET', nodes, node)
if not record or lease(record) ~= generation then
  return false
end

local userKey = isUser and KEYS[firstTopic]
local own = isUser and redis.call('HGET', userKey, id)
local ownGeneration, ownSince, ownOnline
if own then ownGeneration, ownSince, ownOnline = header(own) end

-- lives says whether the lease that placed a value is still held.
local records = {}
local function lives(value)
  local holder = owner(value)
  if not holder then return false end
  if records[holder] == nil then records[holder] = redis.call('HGET', nodes, holder) end
  return records[holder] and lease(records[holder]) == generationOf(value)
end

-- The clock is the latest since that was ever given: a since must be later than those
-- before it, even if the server's time has stepped back. A clock that is lost, or not
-- credible, is made anew from those of the user's sessions that live.
local time = now()
local stored = redis.call('GET', clock)
local last = credible(stored, time)
local odd = stored and not last and 1 or 0
if not last then
  last = 0
  if isUser and redis.call('HLEN', userKey) <= many then
    for _, value in ipairs(redis.call('HVALS', userKey)) do
      local _, at = header(value)
      last = math.max(last, lives(value) and credible(at, time) or 0)
    end
  end
end
if since == '' then
  local had = credible(ownSince, time)
  since = had and had <= math.max(time, last) and ownSince or text(math.max(time, last + 1))
end
if (credible(since, time) or 0) > last then
  redis.call('SET', clock, since)
end

-- A session whose lease is gone was left behind by a node that died after its lease
-- or its index was lost. It would keep the user online for ever.
local function forgetStray()
  local all = redis.call('HGETALL', userKey)
  for i = 1, #all, 2 do
    local holder, of = owner(all[i + 1]), generationOf(all[i + 1])
    if holder then
      local r = redis.call('HGET', nodes, holder)
      if not (r and lease(r) == of) and redis.call('HEXISTS', dying, of .. ':' .. holder) == 0 then
        redis.call('HDEL', userKey, all[i])
      end
    end
  end
end

local online = '0'
local sessions, total = {}, 0
if isUser then
  -- A session that is there already has been added before, perhaps by a call
  -- whose answer was lost: it gets the same answer again. One that asks for its
  -- since has never had an answer, whatever lease it was added under.
  if ownGeneration == generation or ownOnline and ARGV[4] == '' then
    online = ownOnline
  elseif not own then
    local others = redis.call('HLEN', userKey)
    if others > 0 and others <= 4 then
      forgetStray()
      others = redis.call('HLEN', userKey)
    end
    if others == 0 and not redis.call('ZSCORE', gone, user) then online = '1' end
  end
  redis.call('ZREM', gone, user)

  if limit > 0 then
    local all = redis.call('HGETALL', userKey)
    total = #all / 2
    if total <= limit then
      sessions = all
    else
      -- Not all are answered, so the caller cannot judge who of them lives. The total
      -- leaves out those whose lease is lost or has run out.
      local older = {}
      for i = 1, #all, 2 do
        local _, at = header(all[i + 1])
        if at and tonumber(at) < tonumber(since) and lives(all[i + 1]) and not hasRunOut(records[owner(all[i + 1])], time) then table.insert(older, {tonumber(at), i}) end
      end
      total = #older
      table.sort(older, function(a, b) return a[1] < b[1] end)
      for k = 1, math.min(limit, #older) do
        table.insert(sessions, all[older[k][2]])
        table.insert(sessions, all[older[k][2] + 1])
      end
    end
  end
end

local value = table.concat({format, generation, since, online, body}, ' ')
local watched, changes = isWatched(KEYS[firstTopic]), {}
for i = firstTopic, #KEYS do
  local last = watched and lastChange(KEYS[i])
  if last then
    local there = redis.call('HGET', KEYS[i], id)
    if not there or generationOf(there) ~= generation then
      table.insert(changes, i - firstTopic + 1)
      table.insert(changes, count(KEYS[i], last))
    end
  end
  if redis.call('HSET', KEYS[i], id, value) == 1 then
    redis.call('PEXPIRE', KEYS[i], lasts)
  end
  redis.call('SADD', index, ARGV[i - firstTopic + firstMember])
end
return {since, online, sessions, total, odd, changes}
