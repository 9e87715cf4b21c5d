-- Jobs by their ids: what was pushed, and where each is on its way to every topic.
--
-- KEYS     1 queue
-- ARGV     1 name of the queue, 2 bytes of bodies after which it stops, then ids in order
-- returns  a job {id, body as in bodies, a topic {name, place, state, detail, owner}}; place: again, delayed (detail:
--          due, ms), waiting (owner: id of the job that holds its key), log, dead (detail: since, ms; state: the
--          letter), claims (owner), ended. Jobs without a body and topics that never were to get it are left out.
-- errors   NODECL queue

local root, most_bytes = string.sub(KEYS[1], 1, -1 - #$queue), tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NODECL ' .. ARGV[1]) end
local lib = library(root, 0)
local topics = {}
for _, name in ipairs(redis.call('HKEYS', root .. $taken)) do
  local t = lib.topic(name)
  t.sample = lib.sample(t)
  t.owners = redis.call('SMEMBERS', t.base .. $owners)
  t.start = lib.pad(redis.call('HGET', t.base .. $facts, 'start') or '0-0')
  topics[#topics + 1] = t
end

local function body_of(id)
  if not lib.pad(id) then return nil end
  local entry = redis.call('XRANGE', root .. $log, id, id)[1]
  if entry and entry[1] == id then return lib.packed(lib.fields(entry)) end
  for _, t in ipairs(topics) do
    local body = redis.call('HGET', t.base .. $bodies, id)
    if body then return body end
  end
end

local function place_of(t, id)
  for _, owner in ipairs(t.owners) do
    local state = redis.call('HGET', t.base .. $claims .. owner, id)
    if state then return {t.name, 'claims', lib.write(lib.read(state)), '0', owner} end
  end
  local place, s, member = lib.find(t, id)
  if place == 'dead' then
    return {t.name, place, redis.call('HGET', t.base .. $notes, lib.pad(id)) or '0:0:0:',
      redis.call('ZSCORE', t.base .. $dead, lib.pad(id)), ''}
  end
  if place then
    local holder = place == 'waiting' and redis.call('HGET', t.base .. $holders, s.key) or ''
    return {t.name, place, lib.write(s), place == 'delayed' and member or '0', holder}
  end
  if t.sample and not lib.sampled(id, t.sample) then return end
  if lib.pad(id) > t.start then return {t.name, 'ended', '0:0:0:0:0:0::', '0', ''} end
end

local answer, bytes = {}, 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local body = body_of(id)
  if body then
    local job = {id, body}
    for _, t in ipairs(topics) do job[#job + 1] = place_of(t, id) end
    answer[#answer + 1] = job
    bytes = bytes + #body
    if bytes >= most_bytes then break end
  end
end
return answer
