-- Store the jobs of one append, for all topics of all its queues at once, or nothing of it.
--
-- KEYS     a queue 6: queue, log, sizes, taken, fenced, batch of this owner
-- ARGV     1 boot, 2 number of the batch, 3 ms that its answer is kept, then
--          a queue: name, channel of the bell, bytes of the bodies, count n, n envelopes
-- returns  a queue "batch ms seq n backlog topics": its ids are ms-seq .. ms-(seq+n-1)
-- errors   LATE batch (a later one was answered); FENCED boot; NODECL queue. Nothing was written; at
--          maxmemory neither, because the first XADD is refused.

local PER = 6
local boot, batch, keep_ms = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local heads, answers, at = {}, {}, 4
for first = 1, #KEYS, PER do
  local name, count = ARGV[at], tonumber(ARGV[at + 3])
  -- What an earlier try has stored is answered even to a boot that was fenced since.
  local stored = redis.call('GET', KEYS[first + 5])
  local last = stored and tonumber(string.match(stored, '^%d+')) or -1
  if last == tonumber(batch) then
    answers[#answers + 1] = stored
  elseif last > tonumber(batch) then
    return redis.error_reply('LATE ' .. batch)
  elseif redis.call('SISMEMBER', KEYS[first + 4], boot) == 1 then
    return redis.error_reply('FENCED ' .. boot)
  else
    local head = redis.call('HMGET', KEYS[first], 'pushed', 'bytes', 'ms', 'seq')
    if not (head[1] and head[2] and head[3] and head[4]) then
      return redis.error_reply('NODECL ' .. name)
    end
    heads[#heads + 1] = {first = first, at = at, count = count, head = head, slot = #answers + 1}
    answers[#answers + 1] = false
  end
  at = at + 4 + count
end

for _, part in ipairs(heads) do
  local first, argument, count = part.first, part.at, part.count
  local pushed, bytes = tonumber(part.head[1]) + count, tonumber(part.head[2])
  local ms, seq = tonumber(part.head[3]), tonumber(part.head[4]) + 1
  if now_ms > ms then ms, seq = now_ms, 0 end
  local stamp = string.format('%.0f-', ms)
  local log = KEYS[first + 1]
  for i = 0, count - 1 do
    redis.call('XADD', log, stamp .. (seq + i), 'j', ARGV[argument + 4 + i])
  end
  redis.call('XADD', KEYS[first + 2], stamp .. seq, 'z', string.format('%.0f', bytes))
  redis.call('HSET', KEYS[first], 'pushed', string.format('%.0f', pushed), 'ms', string.format('%.0f', ms),
    'seq', seq + count - 1, 'bytes', string.format('%.0f', bytes + ARGV[argument + 2]))
  local takens, slowest = redis.call('HVALS', KEYS[first + 3]), nil
  for i = 1, #takens do
    local taken = tonumber(takens[i])
    if not slowest or taken < slowest then slowest = taken end
  end
  local answer = string.format('%s %.0f %.0f %d %.0f %d',
    batch, ms, seq, count, slowest and pushed - slowest or count, #takens)
  redis.call('SET', KEYS[first + 5], answer, 'PX', keep_ms)
  redis.call('PUBLISH', ARGV[argument + 1], '')
  answers[part.slot] = answer
end
return answers
