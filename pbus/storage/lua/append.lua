-- Store the jobs of one append, for all topics of all its queues at once, or nothing of it.
--
-- KEYS     a queue 1: queue
-- ARGV     1 owner, 2 its boot, 3 number of the batch, 4 ms that its answer is kept, then
--          a queue: name, bytes of the bodies, count n, n envelopes, 1 when some have options (else 0), count m,
--          and m times 6 of what is no plain push of one job: place (from 0), span, delay ms, ttl ms, key, dedupe key
-- returns  a queue "batch ms seq n backlog topics": its stored ids are ms-seq .. ms-(seq+n-1). Then, for
--          what was not stored, in order: " place:J" or " place:B" (refused, one each push), " place:=id" (duplicate)
-- errors   LATE batch (a later one was answered); FENCED boot; NODECL queue. Nothing was written; at
--          maxmemory neither, because the first XADD is refused.

local owner, boot, batch, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local parts, answers, at = {}, {}, 5
for i = 1, #KEYS do
  local root = string.sub(KEYS[i], 1, -1 - #$queue)
  local count = tonumber(ARGV[at + 2])
  -- What an earlier try has stored is answered even to a boot that was fenced since.
  local stored = redis.call('GET', root .. $batch .. owner)
  local last = stored and tonumber(string.match(stored, '^%d+')) or -1
  if last == tonumber(batch) then
    answers[i] = stored
  elseif last > tonumber(batch) then
    return redis.error_reply('LATE ' .. batch)
  elseif redis.call('SISMEMBER', root .. $fenced, boot) == 1 then
    return redis.error_reply('FENCED ' .. boot)
  else
    local head = redis.call('HMGET', KEYS[i], 'pushed', 'bytes', 'ms', 'seq', 'max_jobs', 'max_bytes', 'low')
    if not (head[1] and head[2] and head[3] and head[4]) then
      return redis.error_reply('NODECL ' .. ARGV[at])
    end
    parts[#parts + 1] = {slot = i, root = root, at = at, count = count, head = head, stored = count,
      pushed = tonumber(head[1]), bytes = tonumber(head[2]), size = tonumber(ARGV[at + 1])}
    answers[i] = false
  end
  at = at + 5 + count + 6 * ARGV[at + 4 + count]
end

local function slowest(takens)
  local least
  for i = 1, #takens do
    local taken = tonumber(takens[i])
    if not least or taken < least then least = taken end
  end
  return least
end

-- Pushes with options, or pushes near a bound of their queue: one span after the other. Made when needed.
local function careful(part, least, stamp, seq)
  local lib, rows, log = library(part.root, now_ms), {}, part.root .. $log
  local most, most_bytes = tonumber(part.head[5] or 0), tonumber(part.head[6] or 0)
  local low, exact, dedupe_ms, in_run = tonumber(part.head[7] or 0), false, nil, false

  local function read_rows()
    local from = part.at + 5 + part.count
    for i = from, from + 6 * ARGV[from - 1] - 1, 6 do
      rows[tonumber(ARGV[i])] = {span = tonumber(ARGV[i + 1]), delay = tonumber(ARGV[i + 2]),
        ttl = tonumber(ARGV[i + 3]), key = ARGV[i + 4], dedupe = ARGV[i + 5]}
    end
  end

  -- Bytes of the bodies before push number *place* of the call.
  local function offset(place)
    if place >= part.count then return part.size end
    return tonumber(string.match(ARGV[part.at + 3 + place], '^%d+'))
  end

  -- Which bound of the queue a span would go above: J, B, or nil.
  local function refused(jobs, bytes)
    if not least or part.pushed <= least then return nil end
    if most > 0 and part.pushed - least + jobs > most then return 'J' end
    if most_bytes == 0 or part.bytes + bytes - low <= most_bytes then return nil end
    if not exact then
      low, exact = lib.bytes_taken_by_all(part.bytes), true
      redis.call('HSET', part.root .. $queue, 'low', string.format('%.0f', low))
    end
    return part.bytes + bytes - low > most_bytes and 'B' or nil
  end

  -- A push with options; a delayed one is given to every topic now.
  local function store_special(id, envelope, row)
    if row.delay + row.ttl == 0 and row.key == '' then return redis.call('XADD', log, id, 'j', envelope) end
    local text = string.format('%.0f:%.0f:%s', row.delay, row.ttl, row.key)
    redis.call('XADD', log, id, 'o', text, 'j', envelope)
    if row.delay == 0 then return end
    local options = lib.options(text, id)
    local state = {attempts = 0, crashes = 0, redelivered = 0, first = 0, forgiven = 0, expires = options.expires,
      where = string.format('%.0f', lib.body_bytes(envelope)), key = row.key}
    for _, name in ipairs(redis.call('HKEYS', part.root .. $taken)) do
      local t = lib.topic(name)
      redis.call('HSET', t.base .. $bodies, id, lib.packed(text, envelope))
      lib.delay(t, id, state, options.due)
      lib.set_aside(t, 0, false)
    end
  end

  -- A run of stored pushes that follows a gap gets a mark of its own in sizes.
  local function store(place, span, row)
    for i = place, place + span - 1 do
      local id, envelope = stamp .. (seq + part.stored), ARGV[part.at + 3 + i]
      if row then store_special(id, envelope, row) else redis.call('XADD', log, id, 'j', envelope) end
      if not in_run then
        redis.call('XADD', part.root .. $sizes, id, 'z', string.format('%.0f', part.bytes - offset(place)))
        in_run = true
      end
      part.stored = part.stored + 1
    end
  end

  local function span_of(place, row)
    local span = row and row.span or 1
    local bytes = offset(place + span) - offset(place)
    local dedupe = row and row.dedupe ~= '' and part.root .. $dedupe .. row.dedupe
    local first = dedupe and redis.call('GET', dedupe)
    local no = first and '=' .. first or refused(span, bytes)
    if no then
      for i = place, place + span - 1 do part.gaps[#part.gaps + 1] = ' ' .. i .. ':' .. no end
      in_run = false
      return span
    end
    local id = stamp .. (seq + part.stored)
    store(place, span, row)
    if dedupe then
      dedupe_ms = dedupe_ms or redis.call('HGET', part.root .. $queue, 'dedupe_ms') or 600000
      redis.call('SET', dedupe, id, 'PX', dedupe_ms)
    end
    part.pushed, part.bytes = part.pushed + span, part.bytes + bytes
    return span
  end

  read_rows()
  part.stored, part.gaps = 0, {}
  local place = 0
  while place < part.count do place = place + span_of(place, rows[place]) end
end

for _, part in ipairs(parts) do
  local root, count = part.root, part.count
  local ms, seq = tonumber(part.head[3]), tonumber(part.head[4]) + 1
  if now_ms > ms then ms, seq = now_ms, 0 end
  local stamp = string.format('%.0f-', ms)
  local takens = redis.call('HVALS', root .. $taken)
  local least = slowest(takens)
  -- Whether all of it surely has room; counting the bytes of a backlog exactly costs more than this.
  local most, most_bytes = tonumber(part.head[5]), tonumber(part.head[6])
  local fits = not least or ((not most or most == 0 or part.pushed - least + count <= most)
    and (not most_bytes or most_bytes == 0 or part.bytes + part.size - (part.head[7] or 0) <= most_bytes))
  if fits and ARGV[part.at + 3 + count] == '0' then
    local log, from = root .. $log, part.at + 3
    for i = 0, count - 1 do
      redis.call('XADD', log, stamp .. (seq + i), 'j', ARGV[from + i])
    end
    redis.call('XADD', root .. $sizes, stamp .. seq, 'z', string.format('%.0f', part.bytes))
    part.pushed, part.bytes = part.pushed + count, part.bytes + part.size
  else
    careful(part, least, stamp, seq)
  end
  if part.stored > 0 then
    redis.call('HSET', KEYS[part.slot], 'pushed', string.format('%.0f', part.pushed), 'ms', string.format('%.0f', ms),
      'seq', seq + part.stored - 1, 'bytes', string.format('%.0f', part.bytes))
    redis.call('PUBLISH', root .. $bell, '')
  end
  local answer = string.format('%s %.0f %.0f %d %.0f %d',
    batch, ms, seq, part.stored, least and part.pushed - least or part.stored, #takens)
  if part.gaps then answer = answer .. table.concat(part.gaps) end
  redis.call('SET', root .. $batch .. owner, answer, 'PX', keep_ms)
  answers[part.slot] = answer
end
return answers
