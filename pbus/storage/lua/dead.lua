-- What people and the brake do to dead deliveries; forgive is for those that wait, too.
--
-- KEYS     1 queue
-- ARGV     1 what: revive, accept, forget, forgive; 2 topic, 3 name of the queue, then ids
-- returns  for each id 1 where it took effect, else 0
-- errors   NODECL queue

local root, what = string.sub(KEYS[1], 1, -1 - #$queue), ARGV[1]
local time = redis.call('TIME')
local lib = library(root, time[1] * 1000 + math.floor(time[2] / 1000))
local t = lib.topic(ARGV[2])
if redis.call('HEXISTS', root .. $taken, t.name) == 0 then return redis.error_reply('NODECL ' .. ARGV[3]) end
redis.call('HDEL', KEYS[1], '')  -- opens the script for writes at maxmemory (see claim)

local function with_one_more(s)
  s.forgiven = math.min(s.attempts, s.forgiven + 1)
  return s
end

local function forgive_waiting(id)
  local place, s, member = lib.find(t, id)
  if not place then return 0 end
  if place == 'delayed' then
    redis.call('HSET', t.base .. $notes, lib.pad(id), lib.write(with_one_more(s)))
  elseif place ~= 'log' then
    local key, head = t.base .. $again, ''
    if place == 'waiting' then key, head = t.base .. $waiting, s.key .. '\0' end
    redis.call('ZREM', key, member)
    redis.call('ZADD', key, 0, head .. lib.pad(id) .. '|' .. lib.write(with_one_more(s)))
  end
  return 1
end

local function act(id)
  local letter = lib.unbury(t, id)
  if not letter then return what == 'forgive' and forgive_waiting(id) or 0 end
  local s = lib.read(letter.state == '' and '0:0:0:0:0:0::' or letter.state)
  if what == 'revive' then
    s.forgiven, s.crashes, s.first, s.redelivered = s.attempts, 0, 0, 1
    lib.ready(t, id, s)
  elseif what == 'forgive' then
    lib.ready(t, id, with_one_more(s))
  else
    lib.count(t, what == 'accept' and 'done' or 'forgotten')
    redis.call('HDEL', t.base .. $bodies, id)
  end
  return 1
end

local answer = {}
for i = 4, #ARGV do answer[i - 3] = act(ARGV[i]) end
if lib.ring then redis.call('PUBLISH', root .. $bell, '') end
return answer
