-- Remove a topic with everything of it.
--
-- KEYS     1 queue
-- ARGV     1 topic
-- returns  1, or 0 when there was none of that name
--
-- What remains is the fact that it was dropped, so that children that still know the topic do not take it for lost.

local root, topic = string.sub(KEYS[1], 1, -1 - #$queue), ARGV[1]
local base = root .. $topic .. topic
if redis.call('HDEL', root .. $cursors, topic) + redis.call('HDEL', root .. $taken, topic) == 0 then return 0 end
for _, owner in ipairs(redis.call('SMEMBERS', base .. $owners)) do redis.call('UNLINK', base .. $claims .. owner) end
redis.call('UNLINK', base .. $owners, base .. $again, base .. $delayed, base .. $waiting, base .. $holders,
  base .. $rests, base .. $cancelled, base .. $dead, base .. $grouped, base .. $groups, base .. $notes,
  base .. $bodies, base .. $totals, base .. $facts, base .. $halves, base .. $since)
redis.call('HSET', base .. $facts, 'dropped', 1)
local shadows = redis.call('HGET', KEYS[1], 'shadows')
if shadows then
  local left = string.gsub(shadows, ',' .. string.gsub(topic, '%p', '%%%0') .. ',', ',')
  redis.call('HSET', KEYS[1], 'shadows', left == ',' and '' or left)
end
return 1
