-- Move the counter of a boot, unless it was fenced.
--
-- KEYS     1 beats, 2 fenced
-- ARGV     1 boot
-- returns  the counter
-- errors   FENCED boot
--
-- HDEL of nothing opens the script for writes at maxmemory (see claim): a full store makes nobody dead.

if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then
  return redis.error_reply('FENCED ' .. ARGV[1])
end
redis.call('HDEL', KEYS[1], '')
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
