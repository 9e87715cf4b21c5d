-- Take ready deliveries of one queue for their owners: what came back first, then the log.
--
-- KEYS     1 queue, 2 log, 3 cursors, 4 taken, 5 fenced, then
--          a want 7: claims of the owner, owners, again, bodies, totals, dead, letters
-- ARGV     1 name of the queue, 2 bytes of bodies after which a want is full, then
--          a want 5: topic, owner, boot, count, exclusive (1 or 0)
-- returns  a want {back, fresh}: back = {id, state, envelope, ..}, fresh = {id, envelope, ..}
-- errors   FENCED; NODECL queue. Nothing was written.
--
-- A topic that has nothing ready costs reads only. HDEL of nothing, or a ZREM, comes before the first
-- write that needs memory: at maxmemory Redis refuses such a command only while a script has written
-- nothing, and a full store must be emptied.

local PER_KEYS, PER_ARGS, FIRST_PAGE, LARGEST_PAGE, CHUNK = 7, 5, 16, 512, 2000
local name, most_bytes = ARGV[1], tonumber(ARGV[2])
local queue, log, cursors, taken = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local wants = (#KEYS - 5) / PER_KEYS

local checked = {}
for want = 0, wants - 1 do
  local boot = ARGV[2 + want * PER_ARGS + 3]
  if not checked[boot] then
    if redis.call('SISMEMBER', KEYS[5], boot) == 1 then
      return redis.error_reply('FENCED ' .. boot)
    end
    checked[boot] = true
  end
end

local places = {}
for want = 0, wants - 1 do
  local topic = ARGV[2 + want * PER_ARGS + 1]
  if not places[topic] then
    local cursor, count = redis.call('HGET', cursors, topic), redis.call('HGET', taken, topic)
    if not (cursor and count) then return redis.error_reply('NODECL ' .. name) end
    places[topic] = {cursor = cursor, taken = tonumber(count)}
  end
end

local function unpad(padded)
  local ms, seq = string.match(padded, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. seq
end

-- Pairs into a hash or a set of scores, below Lua's limit of values on its stack.
local function write(command, key, pairs_)
  for from = 1, #pairs_, CHUNK do
    redis.call(command, key, unpack(pairs_, from, math.min(from + CHUNK - 1, #pairs_)))
  end
end

local function others_hold(owners, owner)
  local holding = redis.call('SCARD', owners)
  return holding > 1 or (holding == 1 and redis.call('SISMEMBER', owners, owner) == 0)
end

-- A body that nobody has any more (deleted by hand) cannot be run: its delivery becomes a dead letter.
local function bury_lost(key, padded, id, state)
  local attempts, crashes = string.match(state, '^(%d+):(%d+)')
  local time = redis.call('TIME')
  redis.call('HDEL', KEYS[key + 7], '')
  redis.call('ZADD', KEYS[key + 6], time[1] * 1000 + math.floor(time[2] / 1000), padded)
  redis.call('HSET', KEYS[key + 7], id, attempts .. ':' .. crashes .. ':4:lostits body is not in the store any more')
  redis.call('HINCRBY', KEYS[key + 5], 'dead', 1)
end

local function take_back(key, count, claims)
  local members, back, bytes, again = redis.call('ZRANGE', KEYS[key + 3], 0, count - 1), {}, 0, 0
  if #members == 0 then return back, false end
  local used = 0
  for i, member in ipairs(members) do
    if bytes >= most_bytes then break end
    local padded, state = string.match(member, '^([^|]+)|(.*)$')
    local id = unpad(padded)
    local envelope = redis.call('HGET', KEYS[key + 4], id)
    if envelope then
      back[#back + 1], back[#back + 2], back[#back + 3] = id, state, envelope
      claims[#claims + 1], claims[#claims + 2] = id, state
      if string.match(state, '^%d+:%d+:1') then again = again + 1 end
      bytes = bytes + #envelope
    else
      bury_lost(key, padded, id, state)
    end
    used = i
  end
  for from = 1, used, CHUNK do
    redis.call('ZREM', KEYS[key + 3], unpack(members, from, math.min(from + CHUNK - 1, used)))
  end
  if again > 0 then redis.call('HINCRBY', KEYS[key + 5], 'redelivered', again) end
  return back, bytes >= most_bytes
end

-- Pages grow with what is known of the bodies, so that large ones are not read for nothing.
local function next_page(wanted, got, bytes)
  if got == 0 then return math.min(wanted, FIRST_PAGE) end
  local room = math.ceil((most_bytes - bytes) / math.max(1, bytes / got))
  return math.min(wanted - got, room, LARGEST_PAGE)
end

-- A topic that has read to the end has taken all there is, also when entries were deleted by hand.
local function at_end(topic, place)
  local pushed = tonumber(redis.call('HGET', queue, 'pushed'))
  if pushed and pushed ~= place.taken then
    place.taken = pushed
    redis.call('HSET', taken, topic, string.format('%.0f', pushed))
  end
end

local function take_fresh(key, topic, wanted, claims)
  local fresh, got, bytes, place, short = {}, 0, 0, places[topic], false
  while got < wanted and bytes < most_bytes and not short do
    local page = next_page(wanted, got, bytes)
    local entries = redis.call('XRANGE', log, '(' .. place.cursor, '+', 'COUNT', page)
    local used = 0
    for i = 1, #entries do
      if bytes >= most_bytes then break end
      local id, envelope = entries[i][1], entries[i][2][2]
      used = i
      fresh[#fresh + 1], fresh[#fresh + 2] = id, envelope
      claims[#claims + 1], claims[#claims + 2] = id, ''
      bytes = bytes + #envelope
    end
    got = got + used
    short = #entries < page and used == #entries
    if used > 0 then place.cursor = entries[used][1] end
  end
  if got > 0 then
    redis.call('HDEL', KEYS[key + 1], '')
    redis.call('HSET', cursors, topic, place.cursor)
    place.taken = redis.call('HINCRBY', taken, topic, got)
  end
  if short then at_end(topic, place) end
  return fresh
end

local answer = {}
for want = 0, wants - 1 do
  local key, arg = 5 + want * PER_KEYS, 2 + want * PER_ARGS
  local topic, owner, count = ARGV[arg + 1], ARGV[arg + 2], tonumber(ARGV[arg + 4])
  if ARGV[arg + 5] == '1' and others_hold(KEYS[key + 2], owner) then
    answer[#answer + 1] = {{}, {}}
  else
    local claims = {}
    local back, full = take_back(key, count, claims)
    local fresh = full and {} or take_fresh(key, topic, count - #back / 3, claims)
    if #claims > 0 then
      write('HSET', KEYS[key + 1], claims)
      redis.call('SADD', KEYS[key + 2], owner)
    end
    answer[#answer + 1] = {back, fresh}
  end
end
return answer
