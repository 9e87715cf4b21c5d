-- Take ready deliveries of one queue for their owners: what came back first, then the log.
--
-- KEYS     1 queue
-- ARGV     1 name of the queue, 2 bytes of bodies after which a want is full, then
--          a want 5: topic, owner, boot, count, exclusive (1 or 0)
-- returns  a want {back, fresh, lost [, expired]}: expired = {id, ..}; back = {id, state, body, ..} as in bodies, fresh = {id, body, ..}; lost: jobs
--          that were pushed and are in no log any more (deleted by hand); -1: the topic was dropped
-- errors   FENCED; NODECL queue. Nothing was written.
--
-- A topic that has nothing ready costs reads only. HDEL of nothing, or a ZREM, comes before the first
-- write that needs memory: at maxmemory Redis refuses such a command only while a script has written
-- nothing, and a full store must be emptied. What is passed over (expired, cancelled, of a held key) is
-- bounded, too; where there is more the bell rings, so that somebody comes again.

local PER_ARGS, FIRST_PAGE, LARGEST_PAGE, CHUNK, MOST_PASSED, SPECIAL = 5, 16, 512, 2000, 2000, 115
local name, most_bytes = ARGV[1], tonumber(ARGV[2])
local queue = KEYS[1]
local root = string.sub(queue, 1, -1 - #$queue)
local log, cursors, taken = root .. $log, root .. $cursors, root .. $taken
local wants = (#ARGV - 2) / PER_ARGS

local checked = {}
for arg = 2, #ARGV - 1, PER_ARGS do
  local boot = ARGV[arg + 3]
  if not checked[boot] then
    if redis.call('SISMEMBER', root .. $fenced, boot) == 1 then
      return redis.error_reply('FENCED ' .. boot)
    end
    checked[boot] = true
  end
end

local places = {}
for arg = 2, #ARGV - 1, PER_ARGS do
  local topic = ARGV[arg + 1]
  if not places[topic] then
    local passed = redis.call('HMGET', cursors, topic, ':side')
    local place = {name = topic, base = root .. $topic .. topic, cursor = passed[1], side = passed[2], expired = {},
      taken = tonumber(redis.call('HGET', taken, topic) or nil)}
    if not (place.cursor and place.taken) then
      place.dropped = redis.call('HEXISTS', place.base .. $facts, 'dropped') == 1
      if not place.dropped then return redis.error_reply('NODECL ' .. name) end
    elseif place.side then
      local facts = redis.call('HMGET', place.base .. $facts, 'paused', 'cancelled', 'sample')
      place.paused, place.cancelled, place.sample = facts[1], tonumber(facts[2] or 0) > 0, tonumber(facts[3] or nil)
    end
    places[topic] = place
  end
end

-- The library, and what is needed for other than plain jobs only; made once, and opens the script for writes.
local made
local function special()
  if made then return made end
  local time = redis.call('TIME')
  local lib = library(root, time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HDEL', queue, '')
  made = lib

  -- Whether one that came back can be begun now: its state then. It is on its way out of again already.
  function lib.begun_again(place, id, state)
    local s = lib.read(state)
    if lib.expired(s) then
      place.expired[#place.expired + 1] = id
      return lib.finish(place, id, s, 'expired')
    end
    if s.key ~= '' and lib.hold(place, s.key, id) ~= 0 then return lib.ready(place, id, s) end
    lib.take(place, s)
    return lib.write(s)
  end

  -- It is taken, and nothing comes of it.
  function lib.miss(place) redis.call('HINCRBY', taken, place.name, 1) end

  -- Whether an entry of the log that has options, or may be cancelled, can be begun now: its state then.
  function lib.begun(place, entry)
    local id, text, envelope = entry[1], lib.fields(entry)
    local bytes = lib.body_bytes(envelope)
    place.side = true
    if place.cancelled and redis.call('SREM', place.base .. $cancelled, id) == 1 then
      redis.call('HINCRBY', place.base .. $facts, 'cancelled', -1)
      redis.call('HINCRBY', place.base .. $facts, 'bytes', bytes)
      return nil
    end
    local unseen = place.sample and not lib.sampled(id, place.sample)
    if text == '' and not unseen then return '' end
    local options = lib.options(text, id)
    local s = {attempts = 0, crashes = 0, redelivered = 0, first = 0, forgiven = 0, expires = options.expires,
      where = string.format('%.0f', bytes), key = options.key}
    if lib.elsewhere(place, id, options) then
      redis.call('HINCRBY', place.base .. $facts, 'bytes', bytes)  -- it came to its topics when it was pushed
      return nil
    end
    if unseen then return lib.miss(place) end
    if options.due > lib.now_ms then return lib.shelve(place, id, s, text, envelope, options.due) end
    if lib.expired(s) then
      place.expired[#place.expired + 1] = id
      redis.call('HINCRBY', taken, place.name, 1)
      lib.count(place, 'expired')
      return nil
    end
    local rest = s.key == '' and 0 or lib.hold(place, s.key, id)
    if rest ~= 0 and place.sample then return lib.miss(place) end  -- a shadow keeps nothing that has to wait
    if rest ~= 0 then return lib.shelve(place, id, s, text, envelope, rest) end
    s.where = 'l'
    return lib.write(s)
  end

  return lib
end

local function others_hold(owners, owner)
  local holding = redis.call('SCARD', owners)
  return holding > 1 or (holding == 1 and redis.call('SISMEMBER', owners, owner) == 0)
end

-- Claims are written before what they were taken from: a script that fails in its middle loses nothing.
local function write_claims(place, owner, claims)
  if #claims == 0 then return end
  local key = place.base .. $claims .. owner
  redis.call('HDEL', queue, '')
  redis.call('SADD', place.base .. $owners, owner)
  for from = 1, #claims, CHUNK do
    redis.call('HSET', key, unpack(claims, from, math.min(from + CHUNK - 1, #claims)))
  end
end

local function take_back(place, owner, wanted, got)
  local again, back = place.base .. $again, got.back
  while got.count < wanted and got.bytes < most_bytes and got.passed < MOST_PASSED do
    local members = redis.call('ZRANGE', again, 0, wanted - got.count - 1)
    if #members == 0 then break end
    local before, used, redelivered, claims = got.count, 0, 0, {}
    for i, member in ipairs(members) do
      if got.bytes >= most_bytes then break end
      local ms, seq, state = string.match(member, '^0*(%d+)%-0*(%d+)|(.*)$')
      local id = ms .. '-' .. seq
      local body = redis.call('HGET', place.base .. $bodies, id)
      if not body then
        state = special().bury_lost(place, id, special().read(state))
      elseif string.byte(state) == SPECIAL then
        state = special().begun_again(place, id, state)
      end
      if state then
        back[#back + 1], back[#back + 2], back[#back + 3] = id, state, body
        claims[#claims + 1], claims[#claims + 2] = id, state
        got.count, got.bytes = got.count + 1, got.bytes + #body
        if string.match(state, '^s?%d+:%d+:1') then redelivered = redelivered + 1 end
      end
      used = i
    end
    write_claims(place, owner, claims)
    for from = 1, used, CHUNK do
      redis.call('ZREM', again, unpack(members, from, math.min(from + CHUNK - 1, used)))
    end
    if redelivered > 0 then redis.call('HINCRBY', place.base .. $totals, 'redelivered', redelivered) end
    got.passed = got.passed + used - (got.count - before)
  end
end

-- Pages grow with what is known of the bodies, so that large ones are not read for nothing.
local function next_page(wanted, got)
  if got.count == 0 and got.passed == 0 then return math.min(wanted, FIRST_PAGE) end
  local room = math.ceil((most_bytes - got.bytes) / math.max(1, got.bytes / math.max(1, got.count + got.missed)))
  return math.min(math.max(wanted - got.count, math.min(got.passed, 64)), room, LARGEST_PAGE)
end

-- Look at entries until the want is full; answers how many of them were passed by the cursor.
local function take_page(place, entries, wanted, got, claims)
  for i = 1, #entries do
    if got.bytes >= most_bytes or got.count >= wanted then return i - 1 end
    local entry = entries[i]
    local fields, id, state = entry[2], entry[1], ''
    local body = fields[2]
    if place.sample and fields[1] == 'j' and not place.cancelled and not special().sampled(id, place.sample) then
      state, got.missed, got.bytes = nil, got.missed + 1, got.bytes + #body
    elseif fields[1] ~= 'j' or place.cancelled then
      state = special().begun(place, entry)
      if state then body = special().packed(special().fields(entry)) end
    end
    if state then
      got.fresh[#got.fresh + 1], got.fresh[#got.fresh + 2] = id, body
      claims[#claims + 1], claims[#claims + 2] = id, state
      got.count, got.first, got.bytes = got.count + 1, got.first + 1, got.bytes + #body
    else
      got.passed = got.passed + 1
    end
  end
  return #entries
end

-- A topic that has read to the end has taken all there is, also when entries were deleted by hand.
local function at_end(place)
  local wanted = tonumber(redis.call('HGET', queue, 'pushed') or nil)
  if place.side then
    place.taken = tonumber(redis.call('HGET', taken, place.name))
    wanted = wanted and wanted - (redis.call('HGET', place.base .. $facts, 'fresh') or 0)
    if place.cancelled then
      redis.call('DEL', place.base .. $cancelled)
      redis.call('HDEL', place.base .. $facts, 'cancelled')
    end
  end
  if not wanted or wanted == place.taken then return 0 end
  local lost = wanted - place.taken
  redis.call('HSET', taken, place.name, string.format('%.0f', wanted))
  if lost > 0 then redis.call('HINCRBY', place.base .. $totals, 'forgotten', lost) end
  place.taken = wanted
  return place.sample and 0 or math.max(0, lost)
end

local function take_fresh(place, owner, wanted, got)
  local start, short, claims = place.cursor, false, {}
  while got.count < wanted and got.bytes < most_bytes and got.passed < MOST_PASSED and not short do
    local page = next_page(wanted, got)
    local entries = redis.call('XRANGE', log, '(' .. place.cursor, '+', 'COUNT', page)
    local used = take_page(place, entries, wanted, got, claims)
    short = #entries < page and used == #entries
    if used > 0 then place.cursor = entries[used][1] end
  end
  if place.cursor ~= start then
    if #claims == 0 then redis.call('HDEL', queue, '') end
    write_claims(place, owner, claims)
    redis.call('HSET', cursors, place.name, place.cursor)
    local more = got.first + got.missed
    if more > 0 then place.taken = redis.call('HINCRBY', taken, place.name, more) end
  end
  return short and at_end(place) or 0
end

local function serve(place, owner, wanted, exclusive)
  if place.dropped then return {{}, {}, -1} end
  if place.paused or (exclusive and others_hold(place.base .. $owners, owner)) then return {{}, {}, 0} end
  local got = {back = {}, fresh = {}, count = 0, first = 0, bytes = 0, passed = 0, missed = 0}
  take_back(place, owner, wanted, got)
  local lost = take_fresh(place, owner, wanted, got)
  if got.passed >= MOST_PASSED or (got.missed > 0 and got.bytes >= most_bytes) then special().ring = true end
  local expired = place.expired
  place.expired = {}
  return {got.back, got.fresh, lost, expired}
end

local answer = {}
for arg = 2, #ARGV - 1, PER_ARGS do
  answer[#answer + 1] = serve(places[ARGV[arg + 1]], ARGV[arg + 2], tonumber(ARGV[arg + 4]), ARGV[arg + 5] == '1')
end
if made and made.ring then redis.call('PUBLISH', root .. $bell, '') end
return answer
