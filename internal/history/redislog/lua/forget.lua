-- Makes everything that was kept for topics until now unfindable. Answers, behind
-- what all do, horizon, and the last offset of each topic.
--
-- KEYS: table
-- ARGV: those of begin, topics...
local names = {COUNTER, HORIZON, FORGOT}
for i = 5, #ARGV do
  names[#names + 1] = ARGV[i]
end
local epoch, _, numbers = begin(names)
if not numbers then return epoch end
local counter, horizon, forgot = number(numbers[1]), number(numbers[2]), number(numbers[3])
local ends, changes = {}, {}
for i = 4, #names do
  local last = tonumber(numbers[i] or 0)
  ends[#ends + 1] = last
  if last > horizon then
    forgot = math.max(forgot, last)
    changes[#changes + 1] = last
    changes[#changes + 1] = FORGOT .. names[i]
  end
end
if #changes > 0 then
  -- First a write that Redis accepts when it is full: this frees more than it needs.
  redis.call('PEXPIRE', t, lasts)
  redis.call('ZADD', t, stored(forgot), FORGOT, unpack(changes))
end
return {now, epoch, counter, told, horizon, ends}
