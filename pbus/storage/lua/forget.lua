-- Remove what is kept about a boot, in the store and in each of its queues at once.
--
-- KEYS     1 beats, then the sets of fenced boots
-- ARGV     1 boot
-- returns  nothing

redis.call('HDEL', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('SREM', KEYS[i], ARGV[1]) end
