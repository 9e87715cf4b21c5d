-- Which topics have delayed deliveries whose time has come, and when the next one comes.
--
-- KEYS     delayed of every topic
-- returns  {ms until the earliest (negative: overdue; false: nothing is delayed), positions in KEYS of those due}
--
-- A key of another kind is passed over: it must not stop the other queues.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local earliest, due = nil, {}
for i = 1, #KEYS do
  local first = redis.pcall('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  local at_ms = tonumber(first[2])
  if at_ms then
    if not earliest or at_ms < earliest then earliest = at_ms end
    if at_ms <= now_ms then due[#due + 1] = i - 1 end
  end
end
return {earliest and earliest - now_ms or false, due}
