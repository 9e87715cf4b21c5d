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

local CHUNK, OTHER = 4000, 8
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
local bits, made = {}, nil

local function lib()
  if not made then
    local time = redis.call('TIME')
    made = library(root, time[1] * 1000 + math.floor(time[2] / 1000))
  end
  return made
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

-- Keep the body of a delivery that has it in the log only; false when it is nowhere.
local function put_aside(group, id, s)
  if s.where ~= 'l' then return true end
  s.where = ''
  local entry = redis.call('XRANGE', log, id, id)[1]
  if entry then redis.call('HSET', group.base .. $bodies, id, lib().packed(lib().fields(entry))) end
  return entry ~= nil
end

local function move(group, state, arg)
  local id, how, flags, s = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), lib().read(state)
  local now_ms, rest_ms = lib().now_ms, tonumber(ARGV[arg + 4])
  if flags % 2 == 1 then
    s.attempts = s.attempts + 1
    if s.first == 0 then s.first = now_ms end
  end
  if flags % 4 >= 2 then s.crashes = s.crashes + 1 end
  if flags % 4 > 0 then lib().count(group, 'failed') end
  if flags >= 4 then s.redelivered = 1 end
  if not put_aside(group, id, s) then
    lib().bury_lost(group, id, s)
  elseif how == 'T' then
    lib().delay(group, id, s, now_ms + ARGV[arg + 3])
  elseif how == 'L' then
    redis.call('ZADD', group.base .. $again, 0, lib().pad(id) .. '|' .. lib().write(s))
    lib().ring = true
  else
    if s.key ~= '' and rest_ms > 0 then
      redis.call('ZADD', group.base .. $rests, string.format('%.0f', now_ms + rest_ms), s.key)
    end
    lib().bury(group, id, s, ARGV[arg + 5], ARGV[arg + 6], ARGV[arg + 7])
    lib().free(group, s.key, id)
  end
end

-- The end of one that is done and was no plain job on its first claim.
local function done_special(group, id, state)
  redis.call('HDEL', group.base .. $bodies, id)
  if string.sub(state, -1) ~= ':' then lib().free(group, lib().read(state).key, id) end
end

local function settle(group)
  local from, ids = group.at, {}
  for i = 0, group.acks - 1 do ids[#ids + 1] = ARGV[from + i] end
  for i = 0, group.others - 1 do ids[#ids + 1] = ARGV[from + group.acks + i * OTHER] end
  local claims, done = group.base .. $claims .. group.owner, 0
  local states, ended = unclaim(claims, ids)
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
  if done > 0 then redis.call('HINCRBY', group.base .. $totals, 'done', done) end
  if ended > 0 and redis.call('EXISTS', claims) == 0 then redis.call('SREM', group.base .. $owners, group.owner) end
end

for _, group in ipairs(groups) do settle(group) end
local answer = number .. ' ' .. table.concat(bits)
redis.call('SET', kept, answer, 'PX', keep_ms)
if made and made.ring then redis.call('PUBLISH', root .. $bell, '') end
return answer
