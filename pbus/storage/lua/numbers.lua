-- Where the deliveries of a queue's topics are.
--
-- KEYS     1 queue
-- ARGV     names of topics
-- returns  a topic {ready, running, delayed, dead, ms of the oldest wait, ms since it is paused, then the totals: done,
--          failed, dead, redelivered, cancelled, expired, forgotten, then how many of the ready ones wait for their
--          key}; false: there is none of that name
--
-- The oldest wait is looked for among the first of each place only.

local LOOK = 1000
local root = string.sub(KEYS[1], 1, -1 - #$queue)
local queue = KEYS[1]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lib = library(root, now_ms)
local pushed, side = tonumber(redis.call('HGET', queue, 'pushed') or 0), redis.call('HGET', root .. $cursors, ':side')

local function running(t)
  local count = 0
  for _, owner in ipairs(redis.call('SMEMBERS', t.base .. $owners)) do
    count = count + redis.call('HLEN', t.base .. $claims .. owner)
  end
  return count
end

local function age_ms(id)
  return id and math.max(0, now_ms - tonumber(string.match(id, '^0*(%d+)'))) or 0
end

-- Topics that stand at one place share the look at the log.
local first_after = {}
local function entries_after(cursor, count)
  if count > 1 then return redis.call('XRANGE', root .. $log, '(' .. cursor, '+', 'COUNT', count) end
  if not first_after[cursor] then
    first_after[cursor] = redis.call('XRANGE', root .. $log, '(' .. cursor, '+', 'COUNT', 1)
  end
  return first_after[cursor]
end

-- The age of the first entry of the log that the topic will not pass over.
local function age_in_log(t)
  local cursor = redis.call('HGET', root .. $cursors, t.name) or '0-0'
  local born = lib.born(t)
  local looked, page = 0, 1
  while looked < LOOK do
    local entries = entries_after(cursor, page)
    for _, entry in ipairs(entries) do
      local passed = side and redis.call('SISMEMBER', t.base .. $cancelled, entry[1]) == 1
      if not passed and entry[2][1] == 'o' then
        local options = lib.options(entry[2][2], entry[1])
        passed = options.only or (options.marked and lib.pad(entry[1]) > born)
      end
      if not passed then return age_ms(entry[1]) end
    end
    if #entries < page then return 0 end
    looked, page, cursor = looked + page, 16, entries[#entries][1]
  end
  return age_ms(cursor)
end

local function oldest_ms(t, behind, due)
  local oldest = age_ms(redis.call('ZRANGE', t.base .. $again, 0, 0)[1])
  for _, padded in ipairs(due > 0 and redis.call('ZRANGE', t.base .. $delayed, 0, math.min(due, LOOK) - 1) or {}) do
    oldest = math.max(oldest, age_ms(padded))
  end
  for _, member in ipairs(side and redis.call('ZRANGE', t.base .. $waiting, 0, LOOK - 1) or {}) do
    oldest = math.max(oldest, age_ms(string.match(member, '%z(%d+%-%d+|)')))
  end
  return behind > 0 and math.max(oldest, age_in_log(t)) or oldest
end

local function row(t)
  local taken = redis.call('HGET', root .. $taken, t.name)
  if not taken then return false end
  local facts = redis.call('HMGET', t.base .. $facts, 'fresh', 'paused', 'sample')
  local behind = math.max(0, pushed - taken - (facts[1] or 0))
  if facts[3] then behind = math.ceil(behind * facts[3] / 999983) end  -- a shadow: about so many of them
  local delayed, due = redis.call('ZCARD', t.base .. $delayed), 0
  if delayed > 0 then due = redis.call('ZCOUNT', t.base .. $delayed, '-inf', now_ms) end
  local ready = behind + redis.call('ZCARD', t.base .. $again) + due
  local waiting = side and redis.call('ZCARD', t.base .. $waiting) or 0
  ready = ready + waiting
  local answer = {ready, running(t), delayed - due, redis.call('ZCARD', t.base .. $dead),
    oldest_ms(t, behind, due), tonumber(facts[2] or 0)}
  local totals = redis.call('HMGET', t.base .. $totals,
    'done', 'failed', 'dead', 'redelivered', 'cancelled', 'expired', 'forgotten')
  for i = 1, #totals do answer[#answer + 1] = tonumber(totals[i] or 0) end
  answer[#answer + 1] = waiting
  return answer
end

local answer = {}
for i = 1, #ARGV do answer[i] = row(lib.topic(ARGV[i])) end
return answer
