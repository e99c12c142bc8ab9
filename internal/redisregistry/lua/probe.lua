-- Tries every command that the scripts use, and leaves nothing behind.
-- Answers command and error of each that failed, or one error that is no
-- denial: that of a replica, for one.
--
-- KEYS: three keys of no other use
local tries = {
  {'TIME'},
  {'GET', KEYS[1]}, {'SET', KEYS[1], '0'}, {'SET', KEYS[1], '0', 'KEEPTTL'}, {'PTTL', KEYS[1]}, {'TYPE', KEYS[1]}, {'UNLINK', KEYS[1]},
  {'HSET', KEYS[1], 'f', 'v'}, {'HGET', KEYS[1], 'f'}, {'HGETALL', KEYS[1]}, {'HVALS', KEYS[1]}, {'HEXISTS', KEYS[1], 'f'}, {'HLEN', KEYS[1]}, {'PEXPIRE', KEYS[1], '60000'}, {'HDEL', KEYS[1], 'f'},
  {'SADD', KEYS[2], 'm'}, {'SISMEMBER', KEYS[2], 'm'}, {'SCARD', KEYS[2]}, {'SREM', KEYS[2], 'm'},
  {'ZADD', KEYS[3], '0', 'm'}, {'ZSCORE', KEYS[3], 'm'}, {'ZRANGEBYSCORE', KEYS[3], '0', '1', 'LIMIT', '0', '1'}, {'ZREM', KEYS[3], 'm'},
}
local passing = {'READONLY', 'MISCONF', 'NOREPLICAS', 'OOM'}
local denied = {}
for _, try in ipairs(tries) do
  local reply = redis.pcall(unpack(try))
  if type(reply) == 'table' and reply.err then
    for _, code in ipairs(passing) do
      if string.find(reply.err, code, 1, true) then return reply end
    end
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then -- that comes of a denied UNLINK
      table.insert(denied, try[1])
      table.insert(denied, reply.err)
    end
  end
end
return denied
