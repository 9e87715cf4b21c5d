-- Declare a boot dead, in the store and in each of its queues at once.
--
-- KEYS     1 beats, then the sets of fenced boots
-- ARGV     1 boot
-- returns  nothing
--
-- HDEL is the first write: at maxmemory Redis refuses only a first write that needs memory.

redis.call('HDEL', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('SADD', KEYS[i], ARGV[1]) end
