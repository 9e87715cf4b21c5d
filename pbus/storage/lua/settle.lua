-- End claims of one queue. Each is a compare-and-set: it counts only while the owner's hash has the id.
--
-- KEYS     1 queue
-- ARGV     1 session, 2 number of this settle, 3 ms that its answer is kept, then
--          a group (topic and owner): topic, owner, boot (empty: do not ask for fences), count n of acks,
--          count m of others, n ids, m times 8: id, move (T retry, B bury, L release),
--          flags (1 counts + 2 crash + 4 redelivered), delay in ms, rest of the key in ms, reason, fingerprint, error
-- returns  "number bits": a bit an item in the order given, 1 where it took effect
-- errors   FENCED; nothing was written
--
-- The old answer is deleted first: at maxmemory Redis refuses a write that needs memory only while a
-- script has written nothing, so retries and releases go through when pushes do not.

local CHUNK, OTHER, SPECIAL = 4000, 8, 115
local session, number, keep_ms = ARGV[1], ARGV[2], ARGV[3]
local root = string.sub(KEYS[1], 1, -1 - #$queue)
local log, kept = root .. $log, root .. $settled .. session

local stored = redis.call('GET', kept)
if stored and string.match(stored, '^%d+') == number then return stored end

local groups, checked, at = {}, {}, 4
while at < #ARGV do
  local boot, acks, others = ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if boot ~= '' and not checked[boot] then
    if redis.call('SISMEMBER', root .. $fenced, boot) == 1 then
      return redis.error_reply('FENCED ' .. boot)
    end
    checked[boot] = true
  end
  groups[#groups + 1] = {name = ARGV[at], base = root .. $topic .. ARGV[at], owner = ARGV[at + 1],
    acks = acks, others = others, at = at + 5}
  at = at + 5 + acks + others * OTHER
end

redis.call('DEL', kept)
local bits, made, ring, now = {}, nil, false, nil

local function now_ms()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now
end

local function lib()
  if not made then made = library(root, now_ms()) end
  return made
end

-- The states of the ids in the claims, false where this owner does not have it, and those it has.
local function claimed(claims, ids)
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
  return states, mine
end

-- Keep the body of a delivery that has it in the log only; false when it is nowhere.
local function put_aside(group, id)
  local entry = redis.call('XRANGE', log, id, id)[1]
  if not entry then return false end
  local fields = entry[2]
  local body = fields[1] == 'j' and fields[2] or lib().packed(lib().fields(entry))
  redis.call('HSET', group.base .. $bodies, id, body)
  return true
end

-- A burial, or whatever happens to one with a key, a time to live, or without a body.
local function move_special(group, id, how, s, arg)
  local now_ms, rest_ms = lib().now_ms, tonumber(ARGV[arg + 4])
  if s.where == 'l' then
    s.where = ''
    if not put_aside(group, id) then return lib().bury_lost(group, id, s) end
  end
  if how == 'T' then return lib().delay(group, id, s, now_ms + ARGV[arg + 3]) end
  if how == 'L' then
    redis.call('ZADD', group.base .. $again, 0, lib().pad(id) .. '|' .. lib().write(s))
    lib().ring = true
    return
  end
  if s.key ~= '' and rest_ms > 0 then
    redis.call('ZADD', group.base .. $rests, string.format('%.0f', now_ms + rest_ms), s.key)
  end
  lib().bury(group, id, s, ARGV[arg + 5], ARGV[arg + 6], ARGV[arg + 7])
  lib().free(group, s.key, id)
end

local function back(group, id, how, state, delay_ms)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  local padded = string.rep('0', 14 - #ms) .. ms .. '-' .. string.rep('0', 16 - #seq) .. seq
  if how == 'T' then
    redis.call('ZADD', group.base .. $delayed, string.format('%.0f', now_ms() + delay_ms), padded)
    redis.call('HSET', group.base .. $notes, padded, state)
  else
    redis.call('ZADD', group.base .. $again, 0, padded .. '|' .. state)
    ring = true
  end
end

local function move(group, state, arg)
  local id, how, flags = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2])
  local plain = string.byte(state) ~= SPECIAL
  local attempts, crashes, redelivered, first, forgiven = 0, 0, 0, 0, 0
  if state ~= '' then
    attempts, crashes, redelivered, first, forgiven = string.match(state, '^s?(%d+):(%d+):(%d):(%d+):(%d+):')
  end
  if flags % 2 == 1 then
    attempts = attempts + 1
    if tonumber(first) == 0 then first = now_ms() end
  end
  if flags % 4 >= 2 then crashes = crashes + 1 end
  if flags % 4 > 0 then redis.call('HINCRBY', group.base .. $totals, 'failed', 1) end
  if flags >= 4 then redelivered = 1 end
  if plain and how ~= 'B' and (state ~= '' or put_aside(group, id)) then
    return back(group, id, how, string.format('%d:%d:%d:%.0f:%d:0::', attempts, crashes, redelivered, first, forgiven),
      ARGV[arg + 3])
  end
  local s = lib().read(state)
  s.attempts, s.crashes, s.redelivered, s.first =
    tonumber(attempts), tonumber(crashes), tonumber(redelivered), tonumber(first)
  move_special(group, id, how, s, arg)
end

-- The end of one that is done and was no plain job on its first claim.
local function done_special(group, id, state)
  redis.call('HDEL', group.base .. $bodies, id)
  if string.byte(state) == SPECIAL then lib().free(group, lib().read(state).key, id) end
end

-- Nearly every group: acks of plain jobs on their first claim, of which this owner has all. False: it is another one,
-- and nothing was written. No table is made for a job, which halves what one costs.
local function settle_plain(group, claims)
  if group.others > 0 or group.acks == 0 then return false end
  local last, gone = group.at + group.acks - 1, 0
  for from = group.at, last, CHUNK do
    local found = redis.call('HMGET', claims, unpack(ARGV, from, math.min(from + CHUNK - 1, last)))
    for i = 1, #found do
      if found[i] ~= '' then return false end
    end
  end
  for from = group.at, last, CHUNK do
    gone = gone + redis.call('HDEL', claims, unpack(ARGV, from, math.min(from + CHUNK - 1, last)))
  end
  redis.call('HINCRBY', group.base .. $totals, 'done', gone)
  if gone == group.acks then
    bits[#bits + 1] = string.rep('1', gone)
    return true
  end
  local seen = {}
  for at = group.at, last do
    bits[#bits + 1] = seen[ARGV[at]] and '0' or '1'
    seen[ARGV[at]] = true
  end
  return true
end

local function leave(group, claims)
  if redis.call('EXISTS', claims) == 0 then redis.call('SREM', group.base .. $owners, group.owner) end
end

local function settle(group)
  local claims, done = group.base .. $claims .. group.owner, 0
  if settle_plain(group, claims) then return leave(group, claims) end
  local from, ids = group.at, {}
  for i = 0, group.acks - 1 do ids[#ids + 1] = ARGV[from + i] end
  for i = 0, group.others - 1 do ids[#ids + 1] = ARGV[from + group.acks + i * OTHER] end
  local states, mine = claimed(claims, ids)
  for i = 1, #ids do
    local state = states[i]
    bits[#bits + 1] = state and '1' or '0'
    if state and i <= group.acks then
      done = done + 1
      if state ~= '' then done_special(group, ids[i], state) end
    elseif state then
      move(group, state, from + group.acks + (i - group.acks - 1) * OTHER)
    end
  end
  -- Last of all: a script that fails in its middle leaves what is still claimed.
  for from = 1, #mine, CHUNK do
    redis.call('HDEL', claims, unpack(mine, from, math.min(from + CHUNK - 1, #mine)))
  end
  if done > 0 then redis.call('HINCRBY', group.base .. $totals, 'done', done) end
  if #mine > 0 then leave(group, claims) end
end

for _, group in ipairs(groups) do settle(group) end
local answer = number .. ' ' .. table.concat(bits)
redis.call('SET', kept, answer, 'PX', keep_ms)
if ring or (made and made.ring) then redis.call('PUBLISH', root .. $bell, '') end
return answer
