-- Cancel what of a topic is ready or delayed; a bounded part of it, the log at once.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, 3 most deliveries beside those in the log
-- returns  how many were cancelled
-- errors   NODECL queue

local root, most = string.sub(KEYS[1], 1, -1 - #$queue), tonumber(ARGV[3])
local time = redis.call('TIME')
local lib = library(root, time[1] * 1000 + math.floor(time[2] / 1000))
local t = lib.topic(ARGV[1])
local taken = redis.call('HGET', root .. $taken, t.name)
if not taken then return redis.error_reply('NODECL ' .. ARGV[2]) end
redis.call('HDEL', KEYS[1], '')  -- opens the script for writes at maxmemory (see claim)

local function cancel(id, place, s, member)
  lib.remove(t, id, place, member)
  lib.finish(t, id, s, 'cancelled')
end

local function state_of(place, member)
  if place ~= 'delayed' then return string.match(member, '(%d+%-%d+)|(.*)$') end
  return member, redis.call('HGET', t.base .. $notes, member) or '0:0:0:0:0:0::'
end

local function rest_of(place, key, count)
  if count >= most then return count end
  for _, member in ipairs(redis.call('ZRANGE', key, 0, most - count - 1)) do
    local padded, state = state_of(place, member)
    cancel(lib.unpad(padded), place, lib.read(state), member)
    count = count + 1
  end
  return count
end

-- Those that wait go first: else each holder that ends would make the next one ready.
local function rest()
  local count = rest_of('waiting', t.base .. $waiting, 0)
  count = rest_of('again', t.base .. $again, count)
  return rest_of('delayed', t.base .. $delayed, count)
end

-- Everything after the cursor, without reading it: how much that is, is counted already.
local function log()
  local head = redis.call('HMGET', KEYS[1], 'pushed', 'ms', 'seq')
  local fresh = tonumber(redis.call('HGET', t.base .. $facts, 'fresh') or 0)
  local count = head[1] - redis.call('HGET', root .. $taken, t.name) - fresh
  if count <= 0 then return 0 end
  redis.call('HSET', root .. $cursors, t.name, head[2] .. '-' .. head[3])
  redis.call('HINCRBY', root .. $taken, t.name, count)
  redis.call('DEL', t.base .. $cancelled)
  redis.call('HDEL', t.base .. $facts, 'cancelled', 'bytes')
  lib.count(t, 'cancelled', count)
  return count
end

local count = rest()
if count < most then count = count + log() end
if lib.ring then redis.call('PUBLISH', root .. $bell, '') end
return count
