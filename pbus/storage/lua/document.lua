-- Write a document, or drop it, if it is as the caller saw it.
--
-- KEYS     1 documents of a kind
-- ARGV     1 name, 2 version that the caller saw (0: there was none), 3 a word that no other call has,
--          4 how many there may be, 5 text (absent: drop it)
-- returns  its new version (dropped: 1); 0: it is another one; -1: there are too many

local stored, text = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[5]
local version, word = '0', ''
if stored then version, word = string.match(stored, '^(%d+):(%w+):') end
if text and word == ARGV[3] then return tonumber(version) end  -- repeated after a lost reply
if version ~= ARGV[2] then return 0 end
if not text then return redis.call('HDEL', KEYS[1], ARGV[1]) end
if not stored and redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) then return -1 end
local new = redis.call('HINCRBY', KEYS[1], '', 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', new) .. ':' .. ARGV[3] .. ':' .. text)
return new
