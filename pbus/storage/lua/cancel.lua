-- End deliveries that are ready or delayed as cancelled.
--
-- KEYS     1 queue
-- ARGV     1 topic (empty: all of them), 2 name of the queue, then ids
-- returns  for each id how many deliveries were cancelled
-- errors   NODECL queue

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local time = redis.call('TIME')
local lib = library(root, time[1] * 1000 + math.floor(time[2] / 1000))

local function cancel(t, id)
  local place, s, member = lib.find(t, id)
  if not place or place == 'dead' then return 0 end
  if place == 'log' then
    local _, envelope = lib.fields(member)
    redis.call('SADD', t.base .. $cancelled, id)
    redis.call('HINCRBY', root .. $taken, t.name, 1)
    redis.call('HSET', root .. $cursors, ':side', 1)
    redis.call('HINCRBY', t.base .. $facts, 'cancelled', 1)
    redis.call('HINCRBY', t.base .. $facts, 'bytes', 0 - lib.body_bytes(envelope))
    lib.count(t, 'cancelled')
  else
    lib.remove(t, id, place, member)
    lib.finish(t, id, s, 'cancelled')
  end
  return 1
end

local topics = {ARGV[1]}
if ARGV[1] == '' then topics = redis.call('HKEYS', root .. $taken) end
if redis.call('EXISTS', KEYS[1]) == 0 or (ARGV[1] ~= '' and redis.call('HEXISTS', root .. $taken, ARGV[1]) == 0) then
  return redis.error_reply('NODECL ' .. ARGV[2])
end
redis.call('HDEL', KEYS[1], '')  -- opens the script for writes at maxmemory (see claim)
local counts = {}
for i = 3, #ARGV do
  local count = 0
  for _, name in ipairs(topics) do count = count + cancel(lib.topic(name), ARGV[i]) end
  counts[i - 2] = count
end
if lib.ring then redis.call('PUBLISH', root .. $bell, '') end
return counts
