-- Open claims of a topic.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue
-- returns  an owner {name, {id, state, ..}}
-- errors   NODECL queue

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local base = root .. $topic .. ARGV[1]
if redis.call('HEXISTS', root .. $taken, ARGV[1]) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end

local found = {}
for _, owner in ipairs(redis.call('SMEMBERS', base .. $owners)) do
  found[#found + 1] = {owner, redis.call('HGETALL', base .. $claims .. owner)}
end
return found
