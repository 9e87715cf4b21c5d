-- Groups of errors of a topic that have dead letters, the largest first.
--
-- KEYS     1 queue
-- ARGV     1 topic, 2 name of the queue, 3 most of them
-- returns  a group {fingerprint, letters now, letters ever, ms of the first ever, ms of the newest, its id, its letter}
-- errors   NODECL queue

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local lib = library(root, 0)
local t = lib.topic(ARGV[1])
if redis.call('HEXISTS', root .. $taken, t.name) == 0 then return redis.error_reply('NODECL ' .. ARGV[2]) end

local found, all = {}, redis.call('HGETALL', t.base .. $groups)
for i = 1, #all, 2 do
  local now, ever, first = string.match(all[i + 1], '^(%d+):(%d+):(%d+)$')
  if tonumber(now or 0) > 0 then found[#found + 1] = {all[i], tonumber(now), tonumber(ever), tonumber(first)} end
end
table.sort(found, function(a, b)
  if a[2] ~= b[2] then return a[2] > b[2] end
  return a[1] < b[1]
end)

local answer = {}
for i = 1, math.min(#found, tonumber(ARGV[3])) do
  local group = found[i]
  local newest = redis.call('ZREVRANGEBYLEX', t.base .. $grouped, '(' .. group[1] .. ';', '[' .. group[1] .. ':',
    'LIMIT', 0, 1)[1]
  local at_ms, padded = string.match(newest or '', ':0*(%d+):([%d%-]+)$')
  local id = padded and lib.unpad(padded)
  local letter = id and redis.call('HGET', t.base .. $notes, padded)
  if letter then
    group[5], group[6], group[7] = tonumber(at_ms), id, letter
    answer[#answer + 1] = group
  end
end
return answer
