-- Pause a topic, or resume it and ring its queue's bell.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, 3 1: pause, 0: resume
-- returns  1 when that changed anything
-- errors   NODECL queue

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local facts = root .. $topic .. ARGV[1] .. $facts
if redis.call('HEXISTS', root .. $taken, ARGV[1]) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end
redis.call('HDEL', KEYS[1], '')  -- opens the script for writes at maxmemory (see claim)
if ARGV[3] == '1' then
  local time = redis.call('TIME')
  redis.call('HSET', root .. $cursors, ':side', 1)
  return redis.call('HSETNX', facts, 'paused', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
end
local changed = redis.call('HDEL', facts, 'paused')
redis.call('PUBLISH', root .. $bell, '')
return changed
