-- unpark: parked jobs go on whose code a worker has again.
-- ARGV 1: retention_ms
-- returns: {how many, tickets, more: 1 where there may be others}
-- include: waiting, sweep, mend, resume
local MOST_RESUMED = 20 -- of one script
local went_on, looked, at = 0, 0, '-'
while looked < MOST_RESUMED and not exhausted() do
  local first = redis.call('ZRANGEBYLEX', P .. 'parked', at, '+', 'LIMIT', 0, 1)[1]
  if not first then return { went_on, tickets, 0 } end
  local need, job = string.match(first, '^(.-)|(.*)$')
  local f = job and redis.call('HMGET', key('job', job), 'st', 'pk')
  if not need or f[1] ~= 'paused' or f[2] ~= need then
    redis.call('ZREM', P .. 'parked', first) -- it is not parked any more: a verb has stopped half-way
    looked = looked + 1
  elseif somebody_has(need) then
    looked, went_on = looked + 1, went_on + 1
    resume_job(job)
  else
    looked = looked + 0.1
    at = '(' .. need .. '|\255' -- the next code
  end
end
return { went_on, tickets, 1 }
