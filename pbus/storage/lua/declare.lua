-- Make sure that a queue and its topics exist. Never removes anything.
--
-- KEYS     1 queue
-- ARGV     1 retention ms, 2 retention bytes, 3 most jobs of the backlog, 4 bytes of it, 5 dedupe window ms,
--          6 what to do with dropped topics (new: make them again, keep: leave them out),
--          7 count f of fenced boots, f boots, then
--          a topic 6: name, start of a new one (now, history), ms and number of dead letters to keep (0: all),
--          id it was last seen at (or empty), its sample when it is a shadow (else 0)
-- returns  {names of topics whose cursor had been lost, and "" first when the queue itself was new; names left out}
--
-- HDEL of nothing opens the script for writes at maxmemory (see claim): a node can start on a full store
-- and empty it.
--
-- What the queue's hash has lost is taken from the log and from where callers last were, so ids never go
-- back. A topic that has lost its cursor goes on where its caller last saw it, else at the start of the log.
--
-- What an older pbus has written is brought up to date here, once, before anybody reads it.

local FORMAT = '2'
local queue = KEYS[1]
local root = string.sub(queue, 1, -1 - #$queue)
local log, cursors, taken = root .. $log, root .. $cursors, root .. $taken
local lib = library(root, 0)
local remade, left_out = {}, {}
redis.call('HDEL', queue, '')

local function last_id()
  if redis.call('EXISTS', log) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local boots = tonumber(ARGV[7])
local length, last = redis.call('XLEN', log), last_id()
local head = redis.call('HMGET', queue, 'pushed', 'bytes', 'ms', 'seq')
if not (head[1] and head[2] and head[3] and head[4]) then
  for i = 8 + boots, #ARGV, 6 do
    local seen = ARGV[i + 4]
    if seen ~= '' and lib.pad(seen) > lib.pad(last) then last = seen end
  end
  local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
  redis.call('HSET', queue, 'pushed', head[1] or length, 'bytes', head[2] or 0, 'ms', ms, 'seq', seq,
    'max_jobs', 0, 'max_bytes', 0, 'low', 0)
  head[1] = head[1] or length
  remade[1] = ''
else
  last = head[3] .. '-' .. head[4]
end
-- What format 1 wrote: states of four numbers, those of delayed ones in their members, letters by id.
local function newer(state)
  return string.match(state, '^%d+:%d+:%d:%d+$') and state .. ':0:0::' or state
end

local function upgrade(t)
  for _, owner in ipairs(redis.call('SMEMBERS', t.base .. $owners)) do
    local claims = redis.call('HGETALL', t.base .. $claims .. owner)
    for i = 1, #claims, 2 do redis.call('HSET', t.base .. $claims .. owner, claims[i], newer(claims[i + 1])) end
  end
  for _, member in ipairs(redis.call('ZRANGE', t.base .. $again, 0, -1)) do
    redis.call('ZREM', t.base .. $again, member)
    redis.call('ZADD', t.base .. $again, 0, string.match(member, '^[^|]*|') .. newer(string.match(member, '|(.*)$')))
  end
  local delayed = redis.call('ZRANGE', t.base .. $delayed, 0, -1, 'WITHSCORES')
  for i = 1, #delayed, 2 do
    local padded, state = string.match(delayed[i], '^([^|]*)|(.*)$')
    if padded then
      redis.call('ZREM', t.base .. $delayed, delayed[i])
      redis.call('ZADD', t.base .. $delayed, delayed[i + 1], padded)
      redis.call('HSET', t.base .. $notes, padded, newer(state))
    end
  end
  local dead = redis.call('ZRANGE', t.base .. $dead, 0, -1, 'WITHSCORES')
  for i = 1, #dead, 2 do
    local letter = redis.call('HGET', t.base .. ':letters', lib.unpad(dead[i]))
    local attempts, crashes, length, from = string.match(letter or '', '^(%d+):(%d+):(%d+):()')
    if attempts then
      lib.rebury(t, dead[i], tonumber(dead[i + 1]), attempts .. ':' .. crashes .. ':1:0:0:0::',
        string.sub(letter, from, from + length - 1), '', string.sub(letter, from + length))
    end
  end
  redis.call('DEL', t.base .. ':letters')
end

if redis.call('HGET', queue, 'format') ~= FORMAT then
  for _, name in ipairs(redis.call('HKEYS', taken)) do upgrade(lib.topic(name)) end
  redis.call('HSET', queue, 'format', FORMAT)
end
redis.call('HSET', queue, 'retention_ms', ARGV[1], 'retention_bytes', ARGV[2],
  'max_jobs', ARGV[3], 'max_bytes', ARGV[4], 'dedupe_ms', ARGV[5])
for i = 8, 7 + boots do redis.call('SADD', root .. $fenced, ARGV[i]) end

-- Jobs after an id are counted in pages; the log of a store that lost a cursor is rarely long.
local function entries_after(id)
  local count, page = 0, nil
  repeat
    page = redis.call('XRANGE', log, '(' .. id, '+', 'COUNT', 100)
    count = count + #page
    if #page > 0 then id = page[#page][1] end
  until #page < 100
  return count
end

-- Of the entries after an id, how many are for other topics only, and bytes of their bodies; to a
-- new topic those for one of its name are, too.
local function of_others(id, topic, is_new)
  local count, bytes, page = 0, 0, {}
  if redis.call('HGET', queue, 'only') ~= '1' then return 0, 0 end
  repeat
    page = redis.call('XRANGE', log, '(' .. id, '+', 'COUNT', 100)
    for _, entry in ipairs(page) do
      local text, envelope = lib.fields(entry)
      local only = text ~= '' and lib.options(text, entry[1]).only
      if only and (is_new or only ~= topic) then count, bytes = count + 1, bytes + lib.body_bytes(envelope) end
    end
    if #page > 0 then id = page[#page][1] end
  until #page < 100
  return count, bytes
end

local function make(topic, facts, start, seen)
  local has_cursor, has_taken = redis.call('HGET', cursors, topic), redis.call('HEXISTS', taken, topic) == 1
  if has_cursor and has_taken then return end
  local cursor, lost = '0-0', has_taken or has_cursor or seen ~= ''
  if has_cursor then
    cursor = has_cursor
  elseif seen ~= '' then
    cursor = seen
  elseif start == 'now' and not has_taken then
    cursor = last
  end
  local behind = cursor == '0-0' and length or cursor == last and 0 or entries_after(cursor)
  redis.call('HSET', cursors, topic, cursor)
  local others, bytes = of_others(cursor, topic, not lost)
  redis.call('HSET', taken, topic, string.format('%.0f', head[1] - behind + others))
  if others > 0 and not lost then redis.call('HINCRBY', facts, 'bytes', 0 - bytes) end
  redis.call('HSET', queue, 'low', 0)
  if lost then
    remade[#remade + 1] = topic
    redis.call('HSET', cursors, ':side', 1)  -- nobody knows
  end
  -- Delayed pushes up to born did not come to it when they were pushed.
  if not (has_cursor or has_taken) then redis.call('HSET', facts, 'start', cursor, 'born', last) end
end

-- In the facts of a shadow for whoever has to do with it, and among those of its queue for whoever has not. :side
-- makes claims read the facts.
local function sample(topic, facts, size)
  local shadows = redis.call('HGET', queue, 'shadows') or ''
  local names, known = {}, lib.is_shadow(shadows, topic)
  if size == '0' and not known then return end
  for name in string.gmatch(shadows, '[^,]+') do
    if name ~= topic then names[#names + 1] = name end
  end
  if size == '0' then
    redis.call('HDEL', facts, 'sample')
    redis.call('HSET', queue, 'low', 0)
  else
    names[#names + 1] = topic
    redis.call('HSET', facts, 'sample', size)
    redis.call('HSET', cursors, ':side', 1)
  end
  redis.call('HSET', queue, 'shadows', #names > 0 and ',' .. table.concat(names, ',') .. ',' or '')
end

for i = 8 + boots, #ARGV, 6 do
  local topic, start, seen = ARGV[i], ARGV[i + 1], ARGV[i + 4]
  local facts = lib.topic(topic).base .. $facts
  local dropped = redis.call('HGET', facts, 'dropped')
  if dropped and ARGV[6] == 'keep' then
    left_out[#left_out + 1] = topic
  else
    if dropped then
      redis.call('HDEL', facts, 'dropped')
      seen = ''
    end
    make(topic, facts, start, seen)
    redis.call('HSET', facts, 'dead_keep', ARGV[i + 2], 'dead_max', ARGV[i + 3])
    sample(topic, facts, ARGV[i + 5])
  end
end
return {remade, left_out}
