-- Drop from the start of a log what every topic has taken and retention does not keep; dead letters that
-- are too old, too.
--
-- KEYS     1 queue
-- ARGV     1 most entries, 2 most bytes of bodies to put aside, 3 most dead letters of a topic, 4 name of the
--          queue, then the names of its topics
-- returns  how many entries were dropped
-- errors   NODECL queue: a topic has lost its cursor, so nobody knows what it has taken. No entry was dropped.
--
-- Everything in again, delayed, waiting and dead has its body aside already. Claims that the log overtakes get
-- theirs here, oldest first; where that would be too much for one call, the log waits for the next.

-- Groups of errors without letters are forgotten above so many.
local MOST_GROUPS = 10000
local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local queue = KEYS[1]
local root = string.sub(queue, 1, -1 - #$queue)
local log, sizes, cursors = root .. $log, root .. $sizes, root .. $cursors
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local lib = library(root, now_ms)

local function parse(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function before(a, b)
  local ams, aseq = parse(a)
  local bms, bseq = parse(b)
  return ams < bms or (ams == bms and aseq < bseq)
end

local function after(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return ms .. '-' .. string.format('%.0f', seq + 1)
end

local function id_of(entry) return entry and entry[1] end

-- The first id that some topic has not taken; without topics, the one after the last.
local function first_untaken()
  local head = redis.call('HMGET', queue, 'ms', 'seq', 'shadows')
  if not (head[1] and head[2]) then return nil end
  local least = head[1] .. '-' .. head[2]
  local passed = redis.call('HGETALL', cursors)
  for i = 1, #passed, 2 do
    local counts = passed[i] ~= ':side' and not lib.is_shadow(head[3], passed[i])
    if counts and before(passed[i + 1], least) then least = passed[i + 1] end
  end
  return after(least)
end

local function bytes_before(entry)
  local _, envelope = lib.fields(entry)
  return lib.bytes_before(entry[1], envelope)
end

-- The first id that retention by bytes keeps: at most *keep* bytes lie between it and *bound*.
-- Its place is found by halving the time between the two, then the numbers within one millisecond.
local function kept_by_bytes(first, bound, keep)
  local entry = redis.call('XRANGE', log, bound, '+', 'COUNT', 1)[1]
  local limit = entry and bytes_before(entry) or tonumber(redis.call('HGET', queue, 'bytes') or 0)
  limit = limit - keep
  local function kept(id)
    local found = redis.call('XRANGE', log, id, '+', 'COUNT', 1)[1]
    local bytes = found and bytes_before(found)
    return not bytes or bytes >= limit
  end
  if kept(first) then return first end
  local low, high = parse(first), parse(bound) + 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if kept(string.format('%.0f-0', middle)) then high = middle else low = middle end
  end
  local stamp, from, to = string.format('%.0f-', low), 0, 1
  while not kept(stamp .. to) do from, to = to, to * 2 end
  while to - from > 1 do
    local middle = math.floor((from + to) / 2)
    if kept(stamp .. middle) then to = middle else from = middle end
  end
  return stamp .. to
end

-- Claims whose body is in the log only, of entries before *bound*, oldest first.
local function overtaken(bound)
  local found = {}
  for i = 5, #ARGV do
    local t = lib.topic(ARGV[i])
    for _, owner in ipairs(redis.call('SMEMBERS', t.base .. $owners)) do
      local key = t.base .. $claims .. owner
      local claims = redis.call('HGETALL', key)
      for j = 1, #claims, 2 do
        local state = claims[j + 1]
        if (state == '' or string.find(state, ':l:', 1, true)) and before(claims[j], bound) then
          found[#found + 1] = {id = claims[j], claims = key, bodies = t.base .. $bodies, state = state}
        end
      end
    end
  end
  table.sort(found, function(a, b) return before(a.id, b.id) end)
  return found
end

local function put_aside(bound)
  local bytes = 0
  for _, claim in ipairs(overtaken(bound)) do
    if bytes >= most_bytes then return claim.id end
    local entry, s = redis.call('XRANGE', log, claim.id, claim.id)[1], lib.read(claim.state)
    if entry and s.where == 'l' then
      local body = lib.packed(lib.fields(entry))
      s.where = ''
      redis.call('HSET', claim.bodies, claim.id, body)
      redis.call('HSET', claim.claims, claim.id, lib.write(s))
      bytes = bytes + #body
    end
  end
  return bound
end

-- A topic to which nothing in the log is left goes over the rest by itself: cancelled and delayed entries.
local function pass_over(t)
  local pushed, side = redis.call('HGET', queue, 'pushed'), redis.call('HGET', cursors, ':side')
  local fresh = redis.call('HGET', t.base .. $facts, 'fresh') or 0
  local taken = redis.call('HGET', root .. $taken, t.name)
  if not (side and pushed and taken) or pushed - taken - fresh > 0 then return end
  local start, bytes, cancelled, entries = redis.call('HGET', cursors, t.name), 0, 0, nil
  local cursor = start
  repeat
    entries = cursor and redis.call('XRANGE', log, '(' .. cursor, '+', 'COUNT', 16) or {}
    for _, entry in ipairs(entries) do
      local _, envelope = lib.fields(entry)
      cursor, bytes = entry[1], bytes + lib.body_bytes(envelope)
      cancelled = cancelled + redis.call('SREM', t.base .. $cancelled, cursor)
    end
  until #entries < 16 or bytes > most_bytes
  if cursor == start then return end
  redis.call('HSET', cursors, t.name, cursor)
  redis.call('HINCRBY', t.base .. $facts, 'cancelled', 0 - cancelled)
  redis.call('HINCRBY', t.base .. $facts, 'bytes', bytes)
end

-- Nobody waits for a shadow: it goes on behind what is about to be dropped, as far as *most_bytes* of entries. Answers
-- up to where that may be dropped now.
local function leave_behind(t, bound)
  local sample, cursor = lib.sample(t), redis.call('HGET', cursors, t.name)
  if not (sample and cursor and before(cursor, bound)) then return bound end
  local seen, missed, skipped, bytes, cancelled, entries = 0, 0, 0, 0, 0, nil
  repeat
    entries = redis.call('XRANGE', log, '(' .. cursor, '(' .. bound, 'COUNT', 100)
    for _, entry in ipairs(entries) do
      local text, envelope = lib.fields(entry)
      cursor, seen = entry[1], seen + #envelope
      if redis.call('SREM', t.base .. $cancelled, cursor) == 1 then
        cancelled, bytes = cancelled + 1, bytes + lib.body_bytes(envelope)
      elseif lib.elsewhere(t, cursor, lib.options(text, cursor)) then
        bytes = bytes + lib.body_bytes(envelope)
      else
        missed = missed + 1
        if lib.sampled(cursor, sample) then skipped = skipped + 1 end
      end
    end
  until #entries < 100 or seen > most_bytes
  redis.call('HSET', cursors, t.name, cursor)
  redis.call('HINCRBY', root .. $taken, t.name, missed)
  redis.call('HINCRBY', t.base .. $facts, 'cancelled', 0 - cancelled)
  redis.call('HINCRBY', t.base .. $facts, 'bytes', bytes)
  lib.count(t, 'forgotten', skipped)
  return #entries < 100 and bound or after(cursor)
end

-- What is kept for a time only, of one topic.
local function tidy(t)
  local keep_ms = tonumber(redis.call('HGET', t.base .. $facts, 'dead_keep') or 0)
  if keep_ms > 0 then lib.drop_letters(t, ARGV[3], '(' .. string.format('%.0f', now_ms - keep_ms)) end
  local dead_max = tonumber(redis.call('HGET', t.base .. $facts, 'dead_max') or 0)
  local above = dead_max > 0 and redis.call('ZCARD', t.base .. $dead) - dead_max or 0
  if above > 0 then lib.drop_letters(t, math.min(above, tonumber(ARGV[3]))) end
  redis.call('ZREMRANGEBYSCORE', t.base .. $rests, '-inf', now_ms)
  if redis.call('HLEN', t.base .. $groups) <= MOST_GROUPS then return end
  local groups = redis.call('HSCAN', t.base .. $groups, '0', 'COUNT', MOST_GROUPS)[2]
  for i = 1, #groups, 2 do
    if string.sub(groups[i + 1], 1, 2) == '0:' then redis.call('HDEL', t.base .. $groups, groups[i]) end
  end
end

redis.call('HDEL', queue, '')  -- opens the script for writes at maxmemory (see claim)
for i = 5, #ARGV do
  tidy(lib.topic(ARGV[i]))
  pass_over(lib.topic(ARGV[i]))
end
for i = 5, #ARGV do
  local dropped = redis.call('HEXISTS', lib.topic(ARGV[i]).base .. $facts, 'dropped') == 1
  if not dropped and redis.call('HEXISTS', cursors, ARGV[i]) == 0 then
    return redis.error_reply('NODECL ' .. ARGV[4])
  end
end
local first, untaken = id_of(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]), first_untaken()
if not first or not untaken or not before(first, untaken) then return 0 end
local retention = redis.call('HMGET', queue, 'retention_ms', 'retention_bytes')
if not (retention[1] and retention[2]) then return 0 end

local oldest_ms = now_ms - retention[1]
local bound = string.format('%.0f-0', math.max(0, oldest_ms + 1))
local by_bytes = kept_by_bytes(first, untaken, tonumber(retention[2]))
if before(bound, by_bytes) then bound = by_bytes end
if before(untaken, bound) then bound = untaken end
if not before(first, bound) then return 0 end

for i = 5, #ARGV do bound = leave_behind(lib.topic(ARGV[i]), bound) end
if not before(first, bound) then return 0 end
bound = put_aside(bound)
local dropped = redis.call('XTRIM', log, 'MINID', '~', bound, 'LIMIT', most)
-- '~' drops whole nodes and stops a node short of its limit; below that, less than a node is left.
if dropped < most / 2 then dropped = dropped + redis.call('XTRIM', log, 'MINID', '=', bound) end
local start = id_of(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]) or bound
local mark = id_of(redis.call('XREVRANGE', sizes, start, '-', 'COUNT', 1)[1])
if mark then redis.call('XTRIM', sizes, 'MINID', '=', mark) end
return dropped
