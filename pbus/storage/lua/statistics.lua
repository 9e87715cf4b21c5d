-- Keep rows of statistics, and add what totals grew by since they were told last.
--
-- KEYS     1 queue
-- ARGV     how many totals, of each its field and the total;
--          of every bucket: key without the queue's part, when it expires (s), how many rows, of each field and row
-- returns  0

local root = string.sub(KEYS[1], 1, -1 - #$queue)
local counted, at = root .. $counted, 2
local grown = {}
for _ = 1, tonumber(ARGV[1]) do
  local field, total = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local before = tonumber(redis.call('HGET', counted, field) or '')
  if before ~= total then redis.call('HSET', counted, field, ARGV[at - 1]) end
  -- A smaller one is of a new topic of that name; the first one tells of times that nobody counted.
  local more = before and (total >= before and total - before or total) or 0
  if more > 0 then table.insert(grown, {field, more}) end
end
while at <= #ARGV do
  local bucket, until_s = root .. $bucket .. ARGV[at], ARGV[at + 1]
  local rows = tonumber(ARGV[at + 2])
  at = at + 3
  for _ = 1, rows do
    redis.call('HSET', bucket, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  for _, each in ipairs(grown) do redis.call('HINCRBY', bucket, each[1], each[2]) end
  redis.call('EXPIREAT', bucket, until_s)
end
return 0
