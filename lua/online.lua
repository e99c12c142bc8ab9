-- Answers, for each topic, 1 if a session of a live lease is there, else 0, in
-- one string.
--
-- KEYS: topics...
-- ARGV: live leases as <generation>:<node>...
local live = {}
for _, lease in ipairs(ARGV) do
  live[lease] = true
end
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = '0'
  for _, value in ipairs(redis.call('HVALS', key)) do
    local node, generation = owner(value), generationOf(value)
    if node and live[generation .. ':' .. node] then
      answers[i] = '1'
      break
    end
  end
end
return table.concat(answers)
