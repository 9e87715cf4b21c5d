-- Owners that hold at least one claim.
--
-- KEYS     owners of every topic
-- returns  their names, each once; a key of another kind is passed over

local seen, names = {}, {}
for i = 1, #KEYS do
  for _, owner in ipairs(redis.pcall('SMEMBERS', KEYS[i])) do
    if not seen[owner] then
      seen[owner] = true
      names[#names + 1] = owner
    end
  end
end
return names
