-- Answers the time and every lease.
--
-- KEYS: nodes, dying
return {text(now()), redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
