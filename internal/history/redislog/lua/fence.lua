-- Publishes the end of the log to the node that asks, behind everything that was
-- published before, and makes the table last. Answers what all do.
--
-- KEYS: table
-- ARGV: those of begin, channel, PUBLISH or SPUBLISH, the caller's number
local epoch, _, numbers = begin({COUNTER})
if not numbers then return epoch end
local counter = number(numbers[1])
-- If this cannot be written now, that hides nothing from those who listen.
redis.pcall('PEXPIRE', t, lasts)
redis.call(ARGV[6], ARGV[5], 'm' .. epoch .. ' ' .. text(counter) .. ' ' .. ARGV[7])
return {now, epoch, counter, told}
