-- Who holds deliveries of a topic.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, then ids
-- returns  for each id its owner; empty: nobody
-- errors   NODECL queue

local root, CHUNK = string.sub(KEYS[1], 1, -1 - #$queue), 4000
local base = root .. $topic .. ARGV[1]
if redis.call('HEXISTS', root .. $taken, ARGV[1]) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end

local holders = {}
for i = 3, #ARGV do holders[i - 2] = '' end
for _, owner in ipairs(redis.call('SMEMBERS', base .. $owners)) do
  for from = 3, #ARGV, CHUNK do
    local states = redis.call('HMGET', base .. $claims .. owner, unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
    for i = 1, #states do
      if states[i] then holders[from + i - 3] = owner end
    end
  end
end
return holders
