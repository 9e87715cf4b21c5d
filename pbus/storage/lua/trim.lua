-- Drop from the start of a log what every topic has taken and retention does not keep.
--
-- KEYS     1 queue, 2 log, 3 sizes, 4 cursors, then a topic 2: owners, bodies
-- ARGV     1 most entries, 2 most bytes of bodies to put aside, 3 name of the queue,
--          then a topic 2: prefix of its claims, name
-- returns  how many entries were dropped
-- errors   NODECL queue: a topic has lost its cursor, so nobody knows what it has taken. Nothing was dropped.
--
-- Everything in again, delayed and dead has its body aside already. Claims that the log overtakes get
-- theirs here, oldest first; where that would be too much for one call, the log waits for the next.

local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local queue, log, sizes = KEYS[1], KEYS[2], KEYS[3]

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
  local head = redis.call('HMGET', queue, 'ms', 'seq')
  if not (head[1] and head[2]) then return nil end
  local least = head[1] .. '-' .. head[2]
  for _, cursor in ipairs(redis.call('HVALS', KEYS[4])) do
    if before(cursor, least) then least = cursor end
  end
  return after(least)
end

-- Bytes pushed before entry *id*: those before its append, and its offset in it.
local function bytes_before(id, envelope)
  local mark = redis.call('XREVRANGE', sizes, id, '-', 'COUNT', 1)[1]
  return mark and mark[2][2] + (tonumber(string.match(envelope, '^(%d+):')) or 0)
end

-- The first id that retention by bytes keeps: at most *keep* bytes lie between it and *bound*.
-- Its place is found by halving the time between the two, then the numbers within one millisecond.
local function kept_by_bytes(first, bound, keep)
  local entry = redis.call('XRANGE', log, bound, '+', 'COUNT', 1)[1]
  local limit = entry and bytes_before(entry[1], entry[2][2]) or tonumber(redis.call('HGET', queue, 'bytes') or 0)
  limit = limit - keep
  local function kept(id)
    local found = redis.call('XRANGE', log, id, '+', 'COUNT', 1)[1]
    local bytes = found and bytes_before(found[1], found[2][2])
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

-- Claims that never were back and lie before *bound*, oldest first.
local function overtaken(bound)
  local found = {}
  for i = 4, #ARGV, 2 do
    local key = 1 + i
    for _, owner in ipairs(redis.call('SMEMBERS', KEYS[key])) do
      local claims = redis.call('HGETALL', ARGV[i] .. owner)
      for j = 1, #claims, 2 do
        if claims[j + 1] == '' and before(claims[j], bound) then
          found[#found + 1] = {id = claims[j], claims = ARGV[i] .. owner, bodies = KEYS[key + 1]}
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
    local entry = redis.call('XRANGE', log, claim.id, claim.id)[1]
    if entry then
      redis.call('HSET', claim.bodies, claim.id, entry[2][2])
      redis.call('HSET', claim.claims, claim.id, '0:0:0:0')
      bytes = bytes + #entry[2][2]
    end
  end
  return bound
end

for i = 5, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[4], ARGV[i]) == 0 then return redis.error_reply('NODECL ' .. ARGV[3]) end
end
local first, untaken = id_of(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]), first_untaken()
if not first or not untaken or not before(first, untaken) then return 0 end
local retention = redis.call('HMGET', queue, 'retention_ms', 'retention_bytes')
if not (retention[1] and retention[2]) then return 0 end

local time = redis.call('TIME')
local oldest_ms = time[1] * 1000 + math.floor(time[2] / 1000) - retention[1]
local bound = string.format('%.0f-0', math.max(0, oldest_ms + 1))
local by_bytes = kept_by_bytes(first, untaken, tonumber(retention[2]))
if before(bound, by_bytes) then bound = by_bytes end
if before(untaken, bound) then bound = untaken end
if not before(first, bound) then return 0 end

redis.call('HDEL', queue, '')  -- opens the script for writes at maxmemory (see claim)
bound = put_aside(bound)
local dropped = redis.call('XTRIM', log, 'MINID', '~', bound, 'LIMIT', most)
-- '~' drops whole nodes and stops a node short of its limit; below that, less than a node is left.
if dropped < most / 2 then dropped = dropped + redis.call('XTRIM', log, 'MINID', '=', bound) end
local start = id_of(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]) or bound
local mark = id_of(redis.call('XREVRANGE', sizes, start, '-', 'COUNT', 1)[1])
if mark then redis.call('XTRIM', sizes, 'MINID', '=', mark) end
return dropped
