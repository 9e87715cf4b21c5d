-- What waits in a queue and what its log keeps.
--
-- KEYS     1 queue
-- returns  {jobs of the backlog, bytes of them, entries of the log, jobs ever pushed}

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local head = redis.call('HMGET', KEYS[1], 'pushed', 'bytes', 'shadows')
local pushed, bytes = tonumber(head[1] or 0), tonumber(head[2] or 0)
local lib, takens, least = library(root, 0), redis.call('HGETALL', root .. $taken), nil
for i = 1, #takens, 2 do
  if not lib.is_shadow(head[3], takens[i]) then least = math.min(least or pushed, tonumber(takens[i + 1])) end
end
local waiting = math.max(0, pushed - (least or pushed))
local waiting_bytes = waiting > 0 and math.max(0, bytes - lib.bytes_taken_by_all(bytes)) or 0
return {waiting, waiting_bytes, redis.call('XLEN', root .. $log), pushed}
