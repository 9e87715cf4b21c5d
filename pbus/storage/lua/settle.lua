-- End claims of one queue. Each is a compare-and-set: it counts only while the owner's hash has the id.
--
-- KEYS     1 log, 2 fenced, 3 answer of this session, then
--          a group (topic and owner) 8: claims, owners, again, delayed, dead, letters, bodies, totals
-- ARGV     1 number of this settle, 2 ms that its answer is kept, 3 channel of the bell, then
--          a group: owner, boot (empty: do not ask for fences), count n of acks, count m of others, n ids,
--          m times 6: id, move (T retry, B bury, L release), flags (1 counts + 2 crash + 4 redelivered),
--          delay in ms, reason, error
-- returns  "number bits": a bit an item in the order given, 1 where it took effect
-- errors   FENCED; nothing was written
--
-- The old answer is deleted first: at maxmemory Redis refuses a write that needs memory only while a
-- script has written nothing, so retries and releases go through when pushes do not.

local PER, CHUNK, OTHER = 8, 4000, 6
local number, keep_ms = ARGV[1], ARGV[2]
local log = KEYS[1]

local stored = redis.call('GET', KEYS[3])
if stored and string.match(stored, '^%d+') == number then return stored end

local groups, checked, at = {}, {}, 4
for key = 3, #KEYS - 1, PER do
  local boot, acks, others = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if boot ~= '' and not checked[boot] then
    if redis.call('SISMEMBER', KEYS[2], boot) == 1 then
      return redis.error_reply('FENCED ' .. boot)
    end
    checked[boot] = true
  end
  groups[#groups + 1] = {key = key, owner = ARGV[at], acks = acks, others = others, at = at + 4}
  at = at + 4 + acks + others * OTHER
end

redis.call('DEL', KEYS[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local bits, ring = {}, false

local function pad(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return string.rep('0', 14 - #ms) .. ms .. '-' .. string.rep('0', 16 - #seq) .. seq
end

-- Take the ids out of the claims; answers their states, false where this owner does not have it.
local function unclaim(claims, ids)
  local states, seen, mine = {}, {}, {}
  for from = 1, #ids, CHUNK do
    local found = redis.call('HMGET', claims, unpack(ids, from, math.min(from + CHUNK - 1, #ids)))
    for i = 1, #found do
      local id = ids[from + i - 1]
      states[#states + 1] = not seen[id] and found[i]
      if found[i] and not seen[id] then
        seen[id] = true
        mine[#mine + 1] = id
      end
    end
  end
  for from = 1, #mine, CHUNK do
    redis.call('HDEL', claims, unpack(mine, from, math.min(from + CHUNK - 1, #mine)))
  end
  return states, #mine
end

-- Keep the body of a delivery that has not been back before; false when it is nowhere.
local function put_aside(bodies, id, state)
  if state ~= '' then return true end
  local entry = redis.call('XRANGE', log, id, id)[1]
  if entry then redis.call('HSET', bodies, id, entry[2][2]) end
  return entry ~= nil
end

local function bury(key, id, attempts, crashes, reason, text)
  redis.call('ZADD', KEYS[key + 5], now_ms, pad(id))
  redis.call('HSET', KEYS[key + 6], id, attempts .. ':' .. crashes .. ':' .. #reason .. ':' .. reason .. text)
  redis.call('HINCRBY', KEYS[key + 8], 'dead', 1)
end

local function move(key, state, arg)
  local id, how, flags, delay_ms, reason, text =
    ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3]), ARGV[arg + 4], ARGV[arg + 5]
  local attempts, crashes, redelivered, first_ms = string.match(state, '^(%d+):(%d+):(%d):(%d+)$')
  attempts, crashes, first_ms = tonumber(attempts or 0), tonumber(crashes or 0), tonumber(first_ms or 0)
  if flags % 2 == 1 then
    attempts = attempts + 1
    if first_ms == 0 then first_ms = now_ms end
  end
  if flags % 4 >= 2 then crashes = crashes + 1 end
  if flags % 4 > 0 then redis.call('HINCRBY', KEYS[key + 8], 'failed', 1) end
  if flags >= 4 then redelivered = 1 end
  if not put_aside(KEYS[key + 7], id, state) then
    return bury(key, id, attempts, crashes, 'lost', 'its body is not in the store any more')
  end
  if how == 'B' then return bury(key, id, attempts, crashes, reason, text) end
  local member = pad(id) .. '|' .. string.format('%d:%d:%d:%.0f', attempts, crashes, redelivered or 0, first_ms)
  if how == 'T' then
    redis.call('ZADD', KEYS[key + 4], string.format('%.0f', now_ms + delay_ms), member)
  else
    redis.call('ZADD', KEYS[key + 3], 0, member)
    ring = true
  end
end

for _, group in ipairs(groups) do
  local key, from = group.key, group.at
  local ids = {}
  for i = 0, group.acks - 1 do ids[#ids + 1] = ARGV[from + i] end
  for i = 0, group.others - 1 do ids[#ids + 1] = ARGV[from + group.acks + i * OTHER] end
  local states, ended = unclaim(KEYS[key + 1], ids)
  local done = 0
  for i = 1, #ids do
    local state = states[i]
    bits[#bits + 1] = state and '1' or '0'
    if state and i <= group.acks then
      done = done + 1
      if state ~= '' then redis.call('HDEL', KEYS[key + 7], ids[i]) end
    elseif state then
      move(key, state, from + group.acks + (i - group.acks - 1) * OTHER)
    end
  end
  if done > 0 then redis.call('HINCRBY', KEYS[key + 8], 'done', done) end
  if ended > 0 and redis.call('EXISTS', KEYS[key + 1]) == 0 then
    redis.call('SREM', KEYS[key + 2], group.owner)
  end
end

local answer = number .. ' ' .. table.concat(bits)
redis.call('SET', KEYS[3], answer, 'PX', keep_ms)
if ring then redis.call('PUBLISH', ARGV[3], '') end
return answer
