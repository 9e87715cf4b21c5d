-- Where the deliveries of a queue's topics are.
--
-- KEYS     1 queue, 2 log, 3 cursors, 4 taken, then a topic 5: again, delayed, dead, owners, totals
-- ARGV     a topic 2: name, prefix of its claims
-- returns  a topic {ready, running, delayed, dead, ms of the oldest wait, done, failed, dead ever, redelivered}

local PER = 5
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local pushed = tonumber(redis.call('HGET', KEYS[1], 'pushed') or 0)

local function running(owners, prefix)
  local count = 0
  for _, owner in ipairs(redis.call('SMEMBERS', owners)) do
    count = count + redis.call('HLEN', prefix .. owner)
  end
  return count
end

local function age_ms(id)
  return id and math.max(0, now_ms - tonumber(string.match(id, '^0*(%d+)'))) or 0
end

-- Topics that stand at one place share the look at the log.
local ages = {}
local function age_behind(cursor)
  if not ages[cursor] then
    local entry = redis.call('XRANGE', KEYS[2], '(' .. cursor, '+', 'COUNT', 1)[1]
    ages[cursor] = age_ms(entry and entry[1])
  end
  return ages[cursor]
end

local answer = {}
for i = 1, #ARGV, 2 do
  local key, topic = 4 + (i - 1) / 2 * PER, ARGV[i]
  local behind = math.max(0, pushed - (redis.call('HGET', KEYS[4], topic) or pushed))
  local again, delayed = redis.call('ZCARD', KEYS[key + 1]), redis.call('ZCARD', KEYS[key + 2])
  local due, oldest = 0, 0
  if delayed > 0 then
    due = redis.call('ZCOUNT', KEYS[key + 2], '-inf', now_ms)
    if due > 0 then oldest = age_ms(redis.call('ZRANGE', KEYS[key + 2], 0, 0)[1]) end
  end
  if again > 0 then oldest = math.max(oldest, age_ms(redis.call('ZRANGE', KEYS[key + 1], 0, 0)[1])) end
  if behind > 0 then
    oldest = math.max(oldest, age_behind(redis.call('HGET', KEYS[3], topic) or '0-0'))
  end
  local totals = redis.call('HMGET', KEYS[key + 5], 'done', 'failed', 'dead', 'redelivered')
  answer[#answer + 1] = {
    behind + again + due, running(KEYS[key + 4], ARGV[i + 1]), delayed - due, redis.call('ZCARD', KEYS[key + 3]), oldest,
    tonumber(totals[1] or 0), tonumber(totals[2] or 0), tonumber(totals[3] or 0), tonumber(totals[4] or 0),
  }
end
return answer
