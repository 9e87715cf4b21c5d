-- Store the jobs of one append, for all topics of all its queues at once, or nothing of it.
--
-- KEYS     a queue 1: queue
-- ARGV     1 owner, 2 its boot, 3 number of the batch, 4 ms that its answer is kept, then
--          a queue: name, bytes of the bodies, count n, n envelopes, 1 when some have options (else 0), count m,
--          and m times 8 of what is no plain push of one job: place (from 0), span, delay ms, ttl ms, key, dedupe key,
--          the topic that it is only for (empty: all), ms that the dedupe key counts (0: as the queue says);
--          then a group (stored all or none): count s of its stretches, s times number of the queue in KEYS, place
--          of its first push there, place after its last
-- returns  a queue "batch ms seq n backlog topics": its stored ids are ms-seq .. ms-(seq+n-1). Then, for what was
--          not stored, in order: " place:J", " place:B", " place:W" or " place:T" (refused, one each push; W: because
--          of another one of its group; T: the queue has no such topic), " place:=id" (duplicate)
-- errors   LATE batch (a later one was answered); FENCED boot; NODECL queue. Nothing was written; at
--          maxmemory neither, because the first XADD is refused.

local owner, boot, batch, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function slowest(takens)
  local least
  for i = 1, #takens do
    local taken = tonumber(takens[i])
    if not least or taken < least then least = taken end
  end
  return least
end

-- What the topics of a queue have taken; its shadows hold nothing up.
local function takens_of(root, shadows)
  if not shadows or shadows == '' then return redis.call('HVALS', root .. $taken) end
  local all, found = redis.call('HGETALL', root .. $taken), {}
  for i = 1, #all, 2 do
    if not string.find(shadows, ',' .. all[i] .. ',', 1, true) then found[#found + 1] = all[i + 1] end
  end
  return found
end

-- Where a queue is, and what it gets. *fits*: all of it surely has room; counting the bytes of a backlog
-- exactly costs more than this.
local function part_of(i, root, at, count, head)
  local ms, seq = tonumber(head[3]), tonumber(head[4]) + 1
  if now_ms > ms then ms, seq = now_ms, 0 end
  local takens = takens_of(root, head[8])
  local least, pushed, bytes, size = slowest(takens), tonumber(head[1]), tonumber(head[2]), tonumber(ARGV[at + 1])
  local most, most_bytes = tonumber(head[5]), tonumber(head[6])
  local fits = not least or ((not most or most == 0 or pushed - least + count <= most)
    and (not most_bytes or most_bytes == 0 or bytes + size - (head[7] or 0) <= most_bytes))
  return {slot = i, root = root, at = at, count = count, head = head, stored = count, pushed = pushed, bytes = bytes,
    size = size, ms = ms, seq = seq, stamp = string.format('%.0f-', ms), topics = #takens, least = least, fits = fits}
end

local parts, answers, all_fit, at = {}, {}, true, 5
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
    local head = redis.call('HMGET', KEYS[i], 'pushed', 'bytes', 'ms', 'seq', 'max_jobs', 'max_bytes', 'low', 'shadows')
    if not (head[1] and head[2] and head[3] and head[4]) then
      return redis.error_reply('NODECL ' .. ARGV[at])
    end
    local part = part_of(i, root, at, count, head)
    parts[#parts + 1], answers[i], all_fit = part, false, all_fit and part.fits
  end
  at = at + 5 + count + 8 * ARGV[at + 4 + count]
end

-- Pushes with options, or pushes near a bound of their queue: one span after the other. Made when needed.
local function careful(part)
  if part.walk then return end
  local lib, rows, log, least = library(part.root, now_ms), {}, part.root .. $log, part.least
  local most, most_bytes = tonumber(part.head[5] or 0), tonumber(part.head[6] or 0)
  local low, exact, dedupe_ms, in_run, next_place = tonumber(part.head[7] or 0), false, nil, false, 0
  local nothing = {jobs = 0, bytes = 0}
  part.stored, part.gaps = 0, {}

  local function read_rows()
    local from = part.at + 5 + part.count
    for i = from, from + 8 * ARGV[from - 1] - 1, 8 do
      rows[tonumber(ARGV[i])] = {span = tonumber(ARGV[i + 1]), delay = tonumber(ARGV[i + 2]),
        ttl = tonumber(ARGV[i + 3]), key = ARGV[i + 4], dedupe = ARGV[i + 5], only = ARGV[i + 6],
        dedupe_ms = tonumber(ARGV[i + 7])}
    end
  end

  -- Bytes of the bodies before push number *place* of the call.
  local function offset(place)
    if place >= part.count then return part.size end
    return tonumber(string.match(ARGV[part.at + 3 + place], '^%d+'))
  end

  -- Which bound of the queue a span would go above: J, B, or nil. *ahead*: what its group stores before it.
  local function refused(jobs, bytes, ahead)
    local pushed = part.pushed + ahead.jobs
    if not least or pushed <= least then return nil end
    if most > 0 and pushed - least + jobs > most then return 'J' end
    local size = part.bytes + ahead.bytes + bytes
    if most_bytes == 0 or size - low <= most_bytes then return nil end
    if not exact then
      low, exact = lib.bytes_taken_by_all(part.bytes), true
      redis.call('HSET', part.root .. $queue, 'low', string.format('%.0f', low))
    end
    return size - low > most_bytes and 'B' or nil
  end

  -- A push with options; a delayed one, and one for one topic only, is given to its topics now.
  local function store_special(id, envelope, row)
    if row.delay + row.ttl == 0 and row.key == '' and row.only == '' then
      return redis.call('XADD', log, id, 'j', envelope)
    end
    local mark = row.only == '' and '' or '@' .. row.only
    local text = string.format('%.0f%s:%.0f:%s', row.delay, mark, row.ttl, row.key)
    redis.call('XADD', log, id, 'o', text, 'j', envelope)
    local options, bytes = lib.options(text, id), lib.body_bytes(envelope)
    if not options.marked then return end
    for _, name in ipairs(redis.call('HKEYS', part.root .. $taken)) do
      local t = lib.topic(name)
      local sample = row.only == '' and part.head[8] and lib.sample(t)
      if row.only == name or (row.only == '' and (not sample or lib.sampled(id, sample))) then
        local state = {attempts = 0, crashes = 0, redelivered = 0, first = 0, forgiven = 0,
          expires = options.expires, where = string.format('%.0f', bytes), key = row.key}
        redis.call('HSET', t.base .. $bodies, id, lib.packed(text, envelope))
        lib.set_aside(t, 0, false)
        if row.delay > 0 then lib.delay(t, id, state, options.due) else lib.ready(t, id, state) end
      else
        -- The cursor goes over it as over a cancelled one.
        redis.call('HINCRBY', part.root .. $taken, name, 1)
        redis.call('HINCRBY', t.base .. $facts, 'bytes', 0 - bytes)
      end
    end
    if row.only ~= '' then
      redis.call('HSET', part.root .. $queue, 'only', 1)
      least, exact, part.only = slowest(takens_of(part.root, part.head[8])), false, true
    end
  end

  -- A run of stored pushes that follows a gap gets a mark of its own in sizes.
  local function store(place, span, row)
    for i = place, place + span - 1 do
      local id, envelope = part.stamp .. (part.seq + part.stored), ARGV[part.at + 3 + i]
      if row then store_special(id, envelope, row) else redis.call('XADD', log, id, 'j', envelope) end
      if not in_run then
        redis.call('XADD', part.root .. $sizes, id, 'z', string.format('%.0f', part.bytes - offset(place)))
        in_run = true
      end
      part.stored = part.stored + 1
    end
  end

  local function span_at(place)
    local row = rows[place]
    local span = row and row.span or 1
    local dedupe = row and row.dedupe ~= '' and part.root .. $dedupe .. row.dedupe
    return span, offset(place + span) - offset(place), dedupe, row
  end

  local function leave_out(place, span, why)
    for i = place, place + span - 1 do part.gaps[#part.gaps + 1] = ' ' .. i .. ':' .. why end
    in_run = false
  end

  local function offer(place)
    local span, bytes, dedupe, row = span_at(place)
    local first = dedupe and redis.call('GET', dedupe)
    local none = row and row.only ~= '' and redis.call('HEXISTS', part.root .. $taken, row.only) == 0
    local no = first and '=' .. first or none and 'T' or refused(span, bytes, nothing)
    if no then
      leave_out(place, span, no)
      return span
    end
    local id = part.stamp .. (part.seq + part.stored)
    store(place, span, row)
    if dedupe then
      dedupe_ms = dedupe_ms or redis.call('HGET', part.root .. $queue, 'dedupe_ms') or 600000
      redis.call('SET', dedupe, id, 'PX', row.dedupe_ms > 0 and row.dedupe_ms or dedupe_ms)
    end
    part.pushed, part.bytes = part.pushed + span, part.bytes + bytes
    return span
  end

  -- Store or leave out every push before number *place*, of those that were not gone over yet.
  function part.walk(place)
    while next_place < place do next_place = next_place + offer(next_place) end
  end

  -- The first span from the next push on to *last* that would be refused, and why; nil: all of them are stored.
  function part.refusal(place, last, ahead)
    while place < last do
      local span, bytes, dedupe = span_at(place)
      if not (dedupe and (ahead.keys[dedupe] or redis.call('EXISTS', dedupe) == 1)) then
        local no = refused(span, bytes, ahead)
        if no then return place, no end
        ahead.jobs, ahead.bytes = ahead.jobs + span, ahead.bytes + bytes
        if dedupe then ahead.keys[dedupe] = true end
      end
      place = place + span
    end
  end

  -- Leave out all from the next push on to *last*, because the span at *place* is refused (nil: one elsewhere).
  function part.skip(last, place, why)
    while next_place < last do
      local span = span_at(next_place)
      leave_out(next_place, span, next_place == place and why or 'W')
      next_place = next_place + span
    end
  end

  read_rows()
end

-- Store a group whose stretches start at ARGV[from], or nothing of it; answers where the next one starts.
local function store_group(from)
  local of_key, stretches, ahead, upto = {}, {}, {}, from + 3 * ARGV[from]
  for _, part in ipairs(parts) do of_key[part.slot] = part end
  for i = from + 1, upto, 3 do
    local part, first, last = of_key[tonumber(ARGV[i])], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    if part then stretches[#stretches + 1] = {part = part, first = first, last = last} end
  end
  for _, one in ipairs(stretches) do
    careful(one.part)
    if not ahead[one.part] then
      one.part.walk(one.first)
      ahead[one.part] = {jobs = 0, bytes = 0, keys = {}}
    end
  end
  local refused, place, why
  for i, one in ipairs(stretches) do
    place, why = one.part.refusal(one.first, one.last, ahead[one.part])
    if place then
      refused = i
      break
    end
  end
  for i, one in ipairs(stretches) do
    if not refused then one.part.walk(one.last) else one.part.skip(one.last, i == refused and place, why) end
  end
  return upto + 1
end

-- Where all has room no group is refused.
while not all_fit and at <= #ARGV do at = store_group(at) end

for _, part in ipairs(parts) do
  local root, count, stamp, seq = part.root, part.count, part.stamp, part.seq
  if part.fits and not part.walk and ARGV[part.at + 3 + count] == '0' then
    local log, from = root .. $log, part.at + 3
    for i = 0, count - 1 do
      redis.call('XADD', log, stamp .. (seq + i), 'j', ARGV[from + i])
    end
    redis.call('XADD', root .. $sizes, stamp .. seq, 'z', string.format('%.0f', part.bytes))
    part.pushed, part.bytes = part.pushed + count, part.bytes + part.size
  else
    careful(part)
    part.walk(count)
  end
  if part.stored > 0 then
    redis.call('HSET', KEYS[part.slot], 'pushed', string.format('%.0f', part.pushed),
      'ms', string.format('%.0f', part.ms), 'seq', seq + part.stored - 1, 'bytes', string.format('%.0f', part.bytes))
    redis.call('PUBLISH', root .. $bell, '')
  end
  if part.only then part.least = slowest(takens_of(root, part.head[8])) end
  local answer = string.format('%s %.0f %.0f %d %.0f %d',
    batch, part.ms, seq, part.stored, part.least and part.pushed - part.least or part.stored, part.topics)
  if part.gaps then answer = answer .. table.concat(part.gaps) end
  redis.call('SET', root .. $batch .. owner, answer, 'PX', keep_ms)
  answers[part.slot] = answer
end
return answers
