-- Places one session under its topics. Answers nothing where the lease is
-- lost, else since, whether the user came online, and the older live
-- sessions of the user, as id, value, id, value.
--
-- KEYS: nodes, index of the lease, gone, topics...
-- ARGV: node, generation, id, since or '', user, body of the value,
--       '1' where the first topic is the user's, index members of the topics...
local nodes, index, gone = KEYS[1], KEYS[2], KEYS[3]
local node, generation, id, since, user, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local record = redis.call('HGET', nodes, node)
if not record or lease(record) ~= generation then
  return false
end
local time = now()
local online = '0'
local older = {}

if ARGV[7] == '1' then
  local all = redis.call('HGETALL', KEYS[4])
  local own, others, newest = nil, false, time - 1
  for i = 1, #all, 2 do
    if all[i] == id then
      own = all[i + 1]
    else
      others = true
      local _, at = header(all[i + 1])
      if at then newest = math.max(newest, tonumber(at)) end
    end
  end

  -- A session that is there already has been added before, perhaps by a call
  -- whose answer was lost: it gets the same answer again.
  local ownGeneration, ownSince, ownOnline
  if own then ownGeneration, ownSince, ownOnline = header(own) end
  if since == '' then since = ownSince or text(newest + 1) end
  if ownGeneration == generation then
    online = ownOnline
  elseif not own and not others and not redis.call('ZSCORE', gone, user) then
    online = '1'
  end
  redis.call('ZREM', gone, user)

  local live = {}
  local function isLive(value)
    local holder = owner(value)
    if not holder then return false end
    if live[holder] == nil then
      live[holder] = false
      local r = redis.call('HGET', nodes, holder)
      if r then
        local current, renewed, ttl = lease(r)
        if current and time < renewed + ttl then live[holder] = current end
      end
    end
    return live[holder] == header(value)
  end
  for i = 1, #all, 2 do
    local _, at = header(all[i + 1])
    if all[i] ~= id and at and tonumber(at) < tonumber(since) and isLive(all[i + 1]) then
      table.insert(older, all[i])
      table.insert(older, all[i + 1])
    end
  end
elseif since == '' then
  since = text(time)
end

local value = generation .. ' ' .. since .. ' ' .. online .. ' ' .. body
for i = 4, #KEYS do
  redis.call('HSET', KEYS[i], id, value)
  redis.call('SADD', index, ARGV[i + 4])
end
return {since, online, older}
