-- Open claims of one owner.
--
-- KEYS     claims of that owner in every topic
-- returns  {position in KEYS, {id, state, ..}} of each that is not empty; a key of another kind is passed over

local found = {}
for i = 1, #KEYS do
  local claims = redis.pcall('HGETALL', KEYS[i])
  if #claims > 0 then found[#found + 1] = {i - 1, claims} end
end
return found
