-- Make delayed deliveries of one queue ready whose time has come, and ring its bell.
--
-- KEYS     1 queue
-- ARGV     1 most of a topic, then the names of topics
-- returns  for each topic how many became ready, then for each the ids of those that have expired
--
-- ZREM comes before ZADD: at maxmemory Redis refuses only a script's first write.

local CHUNK, SPECIAL = 2000, 115
local root = string.sub(KEYS[1], 1, -1 - #$queue)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lib = library(root, now_ms)

-- One that has a key, a time to live, or was never taken: ready, if only to wait for its key; or it has expired.
local function special_ready(t, id, state)
  local s = lib.read(state)
  if lib.expired(s) then
    lib.finish(t, id, s, 'expired')
    t.expired[#t.expired + 1] = id
    return 0
  end
  lib.ready(t, id, s)
  return 1
end

local function promote(t)
  t.expired = {}
  local members, ready = redis.call('ZRANGEBYSCORE', t.base .. $delayed, '-inf', now_ms, 'LIMIT', 0, ARGV[1]), 0
  for from = 1, #members, CHUNK do
    local to, plain = math.min(from + CHUNK - 1, #members), {}
    local states = redis.call('HMGET', t.base .. $notes, unpack(members, from, to))
    redis.call('ZREM', t.base .. $delayed, unpack(members, from, to))
    redis.call('HDEL', t.base .. $notes, unpack(members, from, to))
    for i = from, to do
      local state = states[i - from + 1] or '0:0:0:0:0:0::'
      if string.byte(state) ~= SPECIAL then
        plain[#plain + 1], plain[#plain + 2] = 0, members[i] .. '|' .. state
      else
        ready = ready + special_ready(t, lib.unpad(members[i]), state)
      end
    end
    if #plain > 0 then
      redis.call('ZADD', t.base .. $again, unpack(plain))
      ready, lib.ring = ready + #plain / 2, true
    end
  end
  return ready
end

local moved, expired = {}, {}
for i = 2, #ARGV do
  local t = lib.topic(ARGV[i])
  moved[i - 1], expired[i - 1] = promote(t), t.expired
end
if lib.ring then redis.call('PUBLISH', root .. $bell, '') end
return {moved, expired}
