-- Stands before the scripts that look into entries.

-- prevs returns the offset before an entry by topic, as text, from its links.
local function prevs(links)
  local found, i = {}, 1
  while i <= #links do
    local prev, length, from = string.match(links, '^(%d+) (%d+):()', i)
    i = from + length
    local topic = string.sub(links, from, i - 1)
    found[topic] = found[topic] or prev
  end
  return found
end
