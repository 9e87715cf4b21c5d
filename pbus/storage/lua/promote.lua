-- Make delayed deliveries of one queue ready whose time has come, and ring its bell.
--
-- KEYS     a topic 2: delayed, again
-- ARGV     1 most of a topic, 2 channel of the bell
-- returns  {ms until the next one that stays delayed (false: none), moved of each topic}
--
-- ZREM comes before ZADD: at maxmemory Redis refuses only a script's first write.

local CHUNK = 2000
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local next_ms, moved, total = nil, {}, 0
for key = 1, #KEYS, 2 do
  local members = redis.call('ZRANGEBYSCORE', KEYS[key], '-inf', now_ms, 'LIMIT', 0, ARGV[1])
  for from = 1, #members, CHUNK do
    local to, scored = math.min(from + CHUNK - 1, #members), {}
    for i = from, to do scored[#scored + 1], scored[#scored + 2] = 0, members[i] end
    redis.call('ZREM', KEYS[key], unpack(members, from, to))
    redis.call('ZADD', KEYS[key + 1], unpack(scored))
  end
  moved[#moved + 1] = #members
  total = total + #members
  local first = tonumber(redis.call('ZRANGE', KEYS[key], 0, 0, 'WITHSCORES')[2])
  if first and (not next_ms or first < next_ms) then next_ms = first end
end
if total > 0 then redis.call('PUBLISH', ARGV[2], '') end
return {next_ms and math.max(0, next_ms - now_ms) or false, moved}
