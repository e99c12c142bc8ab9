-- Publishes the end of the log to the node that asks, behind all that was
-- published before, and has the table last. Answers what all do.
--
-- KEYS: table
-- ARGV: those of begin, channel, PUBLISH or SPUBLISH, the caller's number
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local counter = number(numbers[1])
-- That this cannot be written now hides nothing from those who listen.
redis.pcall('PEXPIRE', t, lasts)
redis.call(ARGV[6], ARGV[5], 'm' .. epoch .. ' ' .. text(counter) .. ' ' .. ARGV[7])
return {now, epoch, counter, told}
