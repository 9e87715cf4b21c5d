-- What several scripts do to deliveries. Not a script: redis_scripts puts it before those that say so.
-- Nothing is made before library() is called, so a script that needs none of it pays nothing.
--
-- KEYS     those of the script it is put before
-- returns  nothing by itself
--
-- A topic is a table {name, base}, base being the start of its keys; a state is a table (keys.py says
-- what it is as text). *ring* is set when something became ready; the script rings then.
--
-- A key is held by a delivery that runs, waits in again, or is delayed after it ran or because the key
-- rests. Who ends the holder makes the next one the holder, so nobody ever has to look for it.

local function library(root, now_ms)
  local lib = {ring = false, now_ms = now_ms}
  local call, queue = redis.call, root .. $queue

  function lib.topic(name) return {name = name, base = root .. $topic .. name} end

  -- Whether *name* is in the list of a queue's shadows (",a,b,"; false or '': there are none).
  function lib.is_shadow(shadows, name)
    return shadows and string.find(shadows, ',' .. name .. ',', 1, true) ~= nil
  end

  function lib.pad(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    if not ms or #ms > 14 or #seq > 16 then return nil end
    return string.rep('0', 14 - #ms) .. ms .. '-' .. string.rep('0', 16 - #seq) .. seq
  end

  function lib.unpad(padded)
    local ms, seq = string.match(padded, '^0*(%d+)%-0*(%d+)')
    return ms .. '-' .. seq
  end

  function lib.read(state)
    if state == '' then state = '0:0:0:0:0:0:l:' end
    local attempts, crashes, redelivered, first, forgiven, expires, where, key =
      string.match(state, '^s?(%d+):(%d+):(%d):(%d+):(%d+):(%d+):(%w*):(.*)$')
    return {attempts = tonumber(attempts), crashes = tonumber(crashes), redelivered = tonumber(redelivered),
      first = tonumber(first), forgiven = tonumber(forgiven), expires = tonumber(expires), where = where, key = key}
  end

  function lib.write(s)
    local special = (s.key ~= '' or s.expires > 0 or s.where ~= '') and 's' or ''
    return string.format('%s%d:%d:%d:%.0f:%d:%.0f:%s:%s',
      special, s.attempts, s.crashes, s.redelivered, s.first, s.forgiven, s.expires, s.where, s.key)
  end

  function lib.expired(s) return s.expires > 0 and s.expires <= now_ms end

  -- Whether a topic with that sample sees a job (core/sample.py); every intermediate fits a double.
  function lib.sampled(id, sample)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    local x = (ms % 999983 * 650011 + seq % 999983 * 271829) % 999983
    return x * x % 999983 * x % 999983 < sample
  end

  -- The sample of a shadow; nil: it is none.
  function lib.sample(t) return tonumber(redis.call('HGET', t.base .. $facts, 'sample') or nil) end

  -- Options and envelope of a log entry.
  function lib.fields(entry)
    local fields = entry[2]
    if fields[1] == 'o' then return fields[2], fields[4] end
    return '', fields[2]
  end

  function lib.options(options, id)
    local delay, only, ttl, key = string.match(options, '^(%d+)(@?[^:]*):(%d+):(.*)$')
    local ms, ttl_ms = tonumber(string.match(id, '^%d+')), tonumber(ttl or 0)
    local is_only = only ~= nil and only ~= ''
    return {due = ms + tonumber(delay or 0), expires = ttl_ms > 0 and ms + ttl_ms or 0, key = key or '',
      marked = is_only or tonumber(delay or 0) > 0, only = is_only and string.sub(only, 2) or nil}
  end

  -- Whether a topic finds an entry with these options elsewhere than in the log, or not at all.
  function lib.elsewhere(t, id, options)
    return options.marked and (options.only or lib.pad(id) > lib.born(t)) and true or false
  end

  -- As it lies in bodies.
  function lib.packed(options, envelope)
    if options == '' then return envelope end
    return 'o' .. #options .. ':' .. options .. envelope
  end

  function lib.unpacked(body)
    local length, from = string.match(body, '^o(%d+):()')
    if not length then return '', 1 end
    return string.sub(body, from, from + length - 1), from + length
  end

  -- Bytes of the body in an envelope that starts at *from*.
  function lib.body_bytes(envelope, from)
    local trace, kind, at = string.match(envelope, '^%d+:(%d+):(%d+):()', from or 1)
    return trace and #envelope - at + 1 - trace - kind or 0
  end

  -- Bytes pushed before an entry of the log: those before its run, and its offset in it.
  function lib.bytes_before(id, envelope)
    local mark = call('XREVRANGE', root .. $sizes, id, '-', 'COUNT', 1)[1]
    return mark and mark[2][2] + (tonumber(string.match(envelope, '^(%d+):')) or 0)
  end

  -- Bytes of the bodies that the slowest topic has taken, of *bytes* that were pushed.
  function lib.bytes_taken_by_all(bytes)
    local cursors, least = call('HGETALL', root .. $cursors), bytes
    local shadows = call('HGET', queue, 'shadows')
    for i = 1, cursors[1] and #cursors or 0, 2 do
      local is_topic = cursors[i] ~= ':side' and not lib.is_shadow(shadows, cursors[i])
      local entry = is_topic and call('XRANGE', root .. $log, '(' .. cursors[i + 1], '+', 'COUNT', 1)[1]
      local taken = bytes
      if entry then
        local _, envelope = lib.fields(entry)
        taken = lib.bytes_before(entry[1], envelope) or bytes
      end
      if is_topic then
        least = math.min(least, taken - (call('HGET', lib.topic(cursors[i]).base .. $facts, 'bytes') or 0))
      end
    end
    return math.max(0, least)
  end

  -- Delayed pushes up to this id, padded, did not come to the topic when they were pushed.
  function lib.born(t) return lib.pad(call('HGET', t.base .. $facts, 'born') or '0-0') end

  function lib.count(t, total, by) call('HINCRBY', t.base .. $totals, total, by or 1) end

  -- One that is not taken is outside the log before the cursor. *passed*: the cursor went over it.
  function lib.set_aside(t, bytes, passed)
    call('HSET', root .. $cursors, ':side', 1)
    call('HINCRBY', t.base .. $facts, 'fresh', 1)
    if passed then call('HINCRBY', t.base .. $facts, 'bytes', bytes) end
  end

  -- It is taken now, if it was not before.
  function lib.take(t, s)
    local bytes = tonumber(s.where)
    if not bytes then return end
    s.where = ''
    call('HINCRBY', root .. $taken, t.name, 1)
    call('HINCRBY', t.base .. $facts, 'fresh', -1)
    call('HINCRBY', t.base .. $facts, 'bytes', 0 - bytes)
  end

  -- Try to hold a key: nil when another one does, else the ms until which it rests (0: it does not).
  function lib.hold(t, key, id)
    local holder = call('HGET', t.base .. $holders, key)
    if holder and holder ~= id then return nil end
    if not holder then call('HSET', t.base .. $holders, key, id) end
    local rest = tonumber(call('ZSCORE', t.base .. $rests, key) or 0)
    return rest > now_ms and rest or 0
  end

  function lib.delay(t, id, s, due_ms)
    local padded = lib.pad(id)
    call('ZADD', t.base .. $delayed, string.format('%.0f', due_ms), padded)
    call('HSET', t.base .. $notes, padded, lib.write(s))
  end

  function lib.wait(t, id, s)
    call('HSET', root .. $cursors, ':side', 1)
    call('ZADD', t.base .. $waiting, 0, s.key .. '\0' .. lib.pad(id) .. '|' .. lib.write(s))
  end

  -- An entry of the log that cannot be begun now: delayed until *due_ms*, or behind the holder of its key.
  function lib.shelve(t, id, s, options, envelope, due_ms)
    call('HSET', t.base .. $bodies, id, lib.packed(options, envelope))
    lib.set_aside(t, tonumber(s.where), true)
    if due_ms then lib.delay(t, id, s, due_ms) else lib.wait(t, id, s) end
  end

  -- Ready, or behind the holder of its key, or delayed while its key rests.
  function lib.ready(t, id, s)
    local rest = s.key == '' and 0 or lib.hold(t, s.key, id)
    if not rest then return lib.wait(t, id, s) end
    if rest > 0 then return lib.delay(t, id, s, rest) end
    call('ZADD', t.base .. $again, 0, lib.pad(id) .. '|' .. lib.write(s))
    lib.ring = true
  end

  -- The holder has ended, if it is one: the next of its key.
  function lib.free(t, key, id)
    if key == '' or call('HGET', t.base .. $holders, key) ~= id then return end
    call('HDEL', t.base .. $holders, key)
    local waiting = t.base .. $waiting
    local member = call('ZRANGEBYLEX', waiting, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
    if not member then return end
    call('ZREM', waiting, member)
    local padded, state = string.match(string.sub(member, #key + 2), '^([^|]+)|(.*)$')
    lib.ready(t, lib.unpad(padded), lib.read(state))
  end

  -- A delivery that nobody runs has ended: counted as *total*, its body and its key given back.
  function lib.finish(t, id, s, total)
    lib.take(t, s)
    lib.count(t, total)
    call('HDEL', t.base .. $bodies, id)
    lib.free(t, s.key, id)
  end

  local function group_member(fingerprint, at_ms, padded)
    return fingerprint .. ':' .. string.format('%014.0f', at_ms) .. ':' .. padded
  end

  local function count_group(t, fingerprint, letters, first_ms)
    local found = call('HGET', t.base .. $groups, fingerprint)
    local now, ever, first = string.match(found or '', '^(%-?%d+):(%d+):(%d+)$')
    now, ever = tonumber(now or 0) + letters, tonumber(ever or 0) + math.max(0, letters)
    call('HSET', t.base .. $groups, fingerprint,
      string.format('%d:%.0f:%.0f', math.max(0, now), ever, first or first_ms))
  end

  -- Take a dead letter away; answers {state, reason, fingerprint, text, at_ms}, nil when there is none.
  function lib.unbury(t, id)
    local padded = lib.pad(id)
    local at_ms = padded and call('ZSCORE', t.base .. $dead, padded)
    if not at_ms then return nil end
    local letter = lib.letter(call('HGET', t.base .. $notes, padded) or '0:0:0:', tonumber(at_ms))
    call('ZREM', t.base .. $dead, padded)
    call('ZREM', t.base .. $grouped, group_member(letter.fingerprint, letter.at_ms, padded))
    call('HDEL', t.base .. $notes, padded)
    count_group(t, letter.fingerprint, -1, letter.at_ms)
    return letter
  end

  function lib.letter(text, at_ms)
    local state, reason, fingerprint, from = string.match(text, '^(%d+):(%d+):(%d+):()')
    local a, b = from + state, from + state + reason
    return {at_ms = at_ms, state = string.sub(text, from, a - 1), reason = string.sub(text, a, b - 1),
      fingerprint = string.sub(text, b, b + fingerprint - 1), text = string.sub(text, b + fingerprint)}
  end

  -- Drop up to *count* of the oldest dead letters, those from before *least_ms* (or all) only.
  function lib.drop_letters(t, count, least_ms)
    local old = call('ZRANGEBYSCORE', t.base .. $dead, '-inf', least_ms or '+inf', 'LIMIT', 0, count)
    for _, padded in ipairs(old) do
      local id = lib.unpad(padded)
      lib.unbury(t, id)
      call('HDEL', t.base .. $bodies, id)
      lib.count(t, 'forgotten')
    end
  end

  -- A letter and its place in its group, counted there only.
  function lib.rebury(t, padded, at_ms, state, reason, fingerprint, text)
    call('ZADD', t.base .. $dead, at_ms, padded)
    call('ZADD', t.base .. $grouped, 0, group_member(fingerprint, at_ms, padded))
    call('HSET', t.base .. $notes, padded,
      #state .. ':' .. #reason .. ':' .. #fingerprint .. ':' .. state .. reason .. fingerprint .. text)
    count_group(t, fingerprint, 1, at_ms)
  end

  function lib.bury(t, id, s, reason, fingerprint, text)
    lib.rebury(t, lib.pad(id), now_ms, lib.write(s), reason, fingerprint, text)
    lib.count(t, 'dead')
    local most = tonumber(call('HGET', t.base .. $facts, 'dead_max') or 0)
    local above = most > 0 and call('ZCARD', t.base .. $dead) - most or 0
    if above > 0 then lib.drop_letters(t, math.min(above, 1000)) end
  end

  -- Its body is nowhere any more (deleted by hand), so nobody can run it: told as a dead letter.
  function lib.bury_lost(t, id, s)
    lib.take(t, s)
    s.where = ''
    lib.bury(t, id, s, 'lost', '', 'its body is not in the store any more')
    lib.free(t, s.key, id)
  end

  -- Where a delivery of topic *t* is that nobody runs: again, delayed, waiting, dead or log; nil: nowhere.
  -- Then its state, and what its place needs to take it out (a member, a due time, a log entry).
  function lib.find(t, id)
    local padded = lib.pad(id)
    if not padded or lib.unpad(padded) ~= id then return nil end
    local member = call('ZRANGEBYLEX', t.base .. $again, '[' .. padded .. '|', '(' .. padded .. '}', 'LIMIT', 0, 1)[1]
    if member then return 'again', lib.read(string.sub(member, #padded + 2)), member end
    local due = call('ZSCORE', t.base .. $delayed, padded)
    if due then return 'delayed', lib.read(call('HGET', t.base .. $notes, padded) or '0:0:0:0:0:0::'), due end
    if call('ZSCORE', t.base .. $dead, padded) then return 'dead' end
    if call('EXISTS', t.base .. $waiting) == 1 then
      local body = call('HGET', t.base .. $bodies, id)
      local key = body and lib.options(lib.unpacked(body), id).key or ''
      local from = key .. '\0' .. padded
      local found = call('ZRANGEBYLEX', t.base .. $waiting, '[' .. from .. '|', '(' .. from .. '}', 'LIMIT', 0, 1)
      member = key ~= '' and found[1]
      if member then return 'waiting', lib.read(string.sub(member, #from + 2)), member end
    end
    local cursor = call('HGET', root .. $cursors, t.name)
    if not cursor or padded <= lib.pad(cursor) then return nil end
    local entry = call('XRANGE', root .. $log, id, id)[1]
    if not entry or call('SISMEMBER', t.base .. $cancelled, id) == 1 then return nil end
    local options = lib.options(lib.fields(entry), id)
    local sample = lib.sample(t)
    if lib.elsewhere(t, id, options) or (sample and not lib.sampled(id, sample)) then return nil end
    return 'log', lib.read('0:0:0:0:0:' .. string.format('%.0f', options.expires) .. ':l:' .. options.key), entry
  end

  -- Take it out of the place where find found it; one in the log is passed over later.
  function lib.remove(t, id, place, member)
    if place == 'again' then
      call('ZREM', t.base .. $again, member)
    elseif place == 'waiting' then
      call('ZREM', t.base .. $waiting, member)
    elseif place == 'delayed' then
      call('ZREM', t.base .. $delayed, lib.pad(id))
      call('HDEL', t.base .. $notes, lib.pad(id))
    end
  end

  return lib
end
