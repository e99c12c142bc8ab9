-- Begins a new epoch, unless the log has left the given one. Answers what all do.
--
-- KEYS: table
-- ARGV: those of begin, an epoch
local epoch, _, numbers = begin({COUNTER}, ARGV[5])
if not numbers then return epoch end
return {now, epoch, number(numbers[1]), told}
