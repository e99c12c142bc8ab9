-- Takes away the keys that are not of the type that herald gives them: nothing
-- could be written there. Answers which.
--
-- KEYS: any
-- ARGV: the type of each
local mended = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= ARGV[i] and kind ~= 'none' then
    redis.call('UNLINK', key)
    table.insert(mended, key)
  end
end
return mended
