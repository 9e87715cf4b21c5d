-- Make sure that a queue and its topics exist. Never removes anything.
--
-- KEYS     1 queue, 2 log, 3 cursors, 4 taken, 5 fenced
-- ARGV     1 retention ms, 2 retention bytes, 3 count f of fenced boots, f boots, then
--          a topic 3: name, start of a new one (now, history), id it was last seen at (or empty)
-- returns  names of topics whose cursor had been lost, and "" first when the queue itself was new
--
-- HDEL of nothing opens the script for writes at maxmemory (see claim): a node can start on a full store
-- and empty it.
--
-- What the queue's hash has lost is taken from the log, so ids never go back. A topic that has lost its
-- cursor goes on where its caller last saw it, else at the start of the log.

local queue, log, cursors, taken = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local remade = {}
redis.call('HDEL', queue, '')

local function last_id()
  if redis.call('EXISTS', log) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local length, last = redis.call('XLEN', log), last_id()
local head = redis.call('HMGET', queue, 'pushed', 'bytes', 'ms', 'seq')
if not (head[1] and head[2] and head[3] and head[4]) then
  local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
  redis.call('HSET', queue, 'pushed', head[1] or length, 'bytes', head[2] or 0, 'ms', ms, 'seq', seq)
  head[1] = head[1] or length
  remade[1] = ''
end
redis.call('HSET', queue, 'retention_ms', ARGV[1], 'retention_bytes', ARGV[2])

local boots = tonumber(ARGV[3])
for i = 4, 3 + boots do redis.call('SADD', KEYS[5], ARGV[i]) end

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

for i = 4 + boots, #ARGV, 3 do
  local topic, start, seen = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local has_cursor, has_taken = redis.call('HEXISTS', cursors, topic) == 1, redis.call('HEXISTS', taken, topic) == 1
  if not (has_cursor and has_taken) then
    local cursor = '0-0'
    if has_cursor then
      cursor = redis.call('HGET', cursors, topic)
    elseif seen ~= '' then
      cursor = seen
    elseif start == 'now' and not has_taken then
      cursor = last
    end
    local behind = cursor == '0-0' and length or cursor == last and 0 or entries_after(cursor)
    redis.call('HSET', cursors, topic, cursor)
    redis.call('HSET', taken, topic, string.format('%.0f', head[1] - behind))
    if has_taken or has_cursor or seen ~= '' then remade[#remade + 1] = topic end
  end
end
return remade
