-- Halves of comparisons of a shadow: each meets the other one, or waits for it.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, 3 ms that a half waits, 4 how many may wait, then
--          a half 3: id, of the shadow (1 or 0), text
-- returns  {how many were given up, then a half the other one, or false}
-- errors   NODECL queue. Nothing was written.
--
-- halves: id/side -> text; since: the same by the time they came. Both expire when nobody brings any more.

local root, keep_ms, most = string.sub(KEYS[1], 1, -1 - #$queue), tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', root .. $taken, ARGV[1]) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end
local base = root .. $topic .. ARGV[1]
local halves, since = base .. $halves, base .. $since
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function give_up(members)
  if #members == 0 then return 0 end
  redis.call('HDEL', halves, unpack(members))
  redis.call('ZREM', since, unpack(members))
  return #members
end

local old = redis.call('ZRANGEBYSCORE', since, '-inf', now_ms - keep_ms, 'LIMIT', 0, 1000)
local answer, wrote = {give_up(old)}, false
for i = 5, #ARGV, 3 do
  local mine, others = ARGV[i] .. '/' .. ARGV[i + 1], ARGV[i] .. '/' .. (1 - ARGV[i + 1])
  local other = redis.call('HGET', halves, others)
  answer[#answer + 1] = other
  if other then
    redis.call('HDEL', halves, others)
    redis.call('ZREM', since, others)
  else
    redis.call('HSET', halves, mine, ARGV[i + 2])
    redis.call('ZADD', since, now_ms, mine)
    wrote = true
  end
end
local above = redis.call('ZCARD', since) - most
if above > 0 then answer[1] = answer[1] + give_up(redis.call('ZRANGE', since, 0, math.min(above, 1000) - 1)) end
if wrote then
  redis.call('PEXPIRE', halves, 2 * keep_ms)
  redis.call('PEXPIRE', since, 2 * keep_ms)
end
return answer
