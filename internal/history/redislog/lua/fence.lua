-- Publishes the end of the log to the node that asks, behind all that was
-- published before, and has the table last. Answers time, epoch and counter.
--
-- KEYS: table
-- ARGV: those of begin, channel, PUBLISH or SPUBLISH, the caller's number
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local counter = number(numbers[1])
redis.call('PEXPIRE', t, lasts)
redis.call(ARGV[6], ARGV[5], '1m' .. epoch .. ' ' .. text(counter) .. ' ' .. ARGV[7] .. '\n')
return {now, epoch, counter}
