-- Make delayed deliveries of one queue ready whose time has come, and ring its bell.
--
-- KEYS     1 queue
-- ARGV     1 most of a topic, then the names of topics
-- returns  for each topic how many became ready
--
-- ZREM comes before ZADD: at maxmemory Redis refuses only a script's first write.

local CHUNK = 2000
local root = string.sub(KEYS[1], 1, -1 - #$queue)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lib = library(root, now_ms)

-- Whether it became ready; an expired one has ended, one whose key rests stays delayed.
local function due(t, id, padded, state)
  if string.sub(state, -4) == ':0::' then
    redis.call('ZADD', t.base .. $again, 0, padded .. '|' .. state)
    lib.ring = true
    return true
  end
  local s = lib.read(state)
  if lib.expired(s) then
    lib.finish(t, id, s, 'expired')
    return false
  end
  lib.ready(t, id, s)
  return not redis.call('ZSCORE', t.base .. $delayed, padded)
end

local function promote(t)
  local members, ready = redis.call('ZRANGEBYSCORE', t.base .. $delayed, '-inf', now_ms, 'LIMIT', 0, ARGV[1]), 0
  for from = 1, #members, CHUNK do
    local to, ids = math.min(from + CHUNK - 1, #members), {}
    for i = from, to do ids[#ids + 1] = lib.unpad(members[i]) end
    local states = redis.call('HMGET', t.base .. $notes, unpack(ids))
    redis.call('ZREM', t.base .. $delayed, unpack(members, from, to))
    redis.call('HDEL', t.base .. $notes, unpack(ids))
    for i, id in ipairs(ids) do
      if due(t, id, members[from + i - 1], states[i] or '0:0:0:0:0:0::') then ready = ready + 1 end
    end
  end
  return ready
end

local moved = {}
for i = 2, #ARGV do moved[#moved + 1] = promote(lib.topic(ARGV[i])) end
if lib.ring then redis.call('PUBLISH', root .. $bell, '') end
return moved
