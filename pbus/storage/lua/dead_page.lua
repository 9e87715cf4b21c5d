-- The newest dead letters of a topic, newest first.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, 3 most of them, 4 only of this group (1 or 0), 5 its fingerprint,
--          6 ms and 7 id of the one they come after (empty: from the newest)
-- returns  {id, ms, letter, ..}
-- errors   NODECL queue

local root, most = string.sub(KEYS[1], 1, -1 - #$queue), tonumber(ARGV[3])
local lib = library(root, 0)
local t = lib.topic(ARGV[1])
if redis.call('HEXISTS', root .. $taken, t.name) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end
local answer = {}

local function add(padded, at_ms)
  local id = lib.unpad(padded)
  local letter = redis.call('HGET', t.base .. $notes, padded)
  if letter then answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = id, at_ms, letter end
end

local function page_of_group()
  local from, to = ARGV[5] .. ';', ARGV[5] .. ':'
  if ARGV[7] ~= '' then from = to .. string.format('%014.0f', ARGV[6]) .. ':' .. (lib.pad(ARGV[7]) or '') end
  local members = redis.call('ZREVRANGEBYLEX', t.base .. $grouped, '(' .. from, '[' .. to, 'LIMIT', 0, most)
  for _, member in ipairs(members) do
    local at_ms, padded = string.match(member, ':0*(%d+):([%d%-]+)$')
    add(padded, at_ms)
  end
end

-- How many come before the page: those that are newer, and of the same millisecond those up to *id*.
local function skipped(at_ms, id)
  local padded = lib.pad(id) or ''
  local count, same = redis.call('ZCOUNT', t.base .. $dead, '(' .. at_ms, '+inf'), nil
  repeat
    same = redis.call('ZREVRANGE', t.base .. $dead, count, count + 999, 'WITHSCORES')
    for i = 1, #same, 2 do
      if tonumber(same[i + 1]) < tonumber(at_ms) or same[i] < padded then return count end
      count = count + 1
    end
  until #same == 0
  return count
end

local function page()
  local from = ARGV[7] == '' and 0 or skipped(ARGV[6], ARGV[7])
  local members = redis.call('ZREVRANGE', t.base .. $dead, from, from + most - 1, 'WITHSCORES')
  for i = 1, #members, 2 do add(members[i], members[i + 1]) end
end

if ARGV[4] == '1' then page_of_group() else page() end
return answer
