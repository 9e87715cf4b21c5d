-- Claims of one queue change their owner: what was begun under one goes on under the other.
--
-- KEYS     1 queue
-- ARGV     1 owner, 2 its boot, 3 heir, 4 its boot, then a topic: topic, count n, n ids
-- returns  a bit an id in the order given, 1 where the heir holds it now (since an earlier call, too)
-- errors   FENCED; nothing was written
--
-- The first write needs no memory: at maxmemory Redis refuses one that does only while a script has written nothing.
-- A claim is written for the heir before its owner loses it: a script that fails in its middle loses nothing.

local CHUNK = 2000
local root = string.sub(KEYS[1], 1, -1 - #$queue)
local owner, heir = ARGV[1], ARGV[3]

for _, boot in ipairs({ARGV[2], ARGV[4]}) do
  if redis.call('SISMEMBER', root .. $fenced, boot) == 1 then return redis.error_reply('FENCED ' .. boot) end
end
redis.call('HDEL', KEYS[1], '')

local bits = {}

-- Ids of one chunk, which are ARGV[from] to ARGV[to].
local function pass(base, from, to)
  local states = redis.call('HMGET', base .. $claims .. owner, unpack(ARGV, from, to))
  local kept = redis.call('HMGET', base .. $claims .. heir, unpack(ARGV, from, to))
  local fields, gone = {}, {}
  for i = 1, #states do
    local id = ARGV[from + i - 1]
    bits[#bits + 1] = (states[i] or kept[i]) and '1' or '0'
    if states[i] then
      fields[#fields + 1], fields[#fields + 2], gone[#gone + 1] = id, states[i], id
    end
  end
  if #gone == 0 then return end
  redis.call('SADD', base .. $owners, heir)
  redis.call('HSET', base .. $claims .. heir, unpack(fields))
  redis.call('HDEL', base .. $claims .. owner, unpack(gone))
  if redis.call('EXISTS', base .. $claims .. owner) == 0 then redis.call('SREM', base .. $owners, owner) end
end

local at = 5
while at < #ARGV do
  local base, count = root .. $topic .. ARGV[at], tonumber(ARGV[at + 1])
  for from = at + 2, at + 1 + count, CHUNK do
    pass(base, from, math.min(from + CHUNK - 1, at + 1 + count))
  end
  at = at + 2 + count
end
return table.concat(bits)
