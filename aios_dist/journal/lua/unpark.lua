-- unpark: parked jobs go on whose code a worker has again.
-- ARGV 1: after, retention_ms
--   after: "-", or where the call before has said to go on
-- returns: {how many, tickets, more: 1 where there may be others, after}
-- include: waiting, sweep, mend, resume
local MOST_RESUMED, MOST_LOOKED = 20, 200 -- of one script
local went_on, looked, at = 0, 0, A.after
while went_on < MOST_RESUMED and looked < MOST_LOOKED and not exhausted() do
  local first = redis.call('ZRANGEBYLEX', P .. 'parked', at, '+', 'LIMIT', 0, 1)[1]
  if not first then return { went_on, tickets, 0, '-' } end
  looked = looked + 1
  local need, job = string.match(first, '^(.-)|(.*)$')
  local f = job and redis.call('HMGET', key('job', job), 'st', 'pk', 'zs')
  if not need or f[1] ~= 'paused' or f[2] ~= need then
    redis.call('ZREM', P .. 'parked', first) -- it is not parked any more: a verb has stopped half-way
  elseif not somebody_has(need) then
    at = '(' .. need .. '|\255' -- the next code
  elseif f[3] then
    at = '(' .. first -- somebody lets it forget steps
  else
    went_on = went_on + 1
    resume_job(job)
  end
end
return { went_on, tickets, 1, at }
