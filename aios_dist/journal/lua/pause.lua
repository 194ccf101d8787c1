-- pause: a running job stops where it is; what waits is put aside, calls in flight end and are kept.
-- ARGV 1: job, reason, retention_ms
--   One that is parked stays so, and does not go on by itself.
-- returns: {status, tickets, more}: "paused" (also when it was), "unknown", or the state that forbids it; more: see cancel
-- flags: allow-oom
-- include: plan, sweep, mend
by_caller = true
local function stay_parked(job)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'pk', 'pl')
  if not f[1] or f[1] == '-' or f[1] == 'limit' then return end
  mark(job)
  redis.call('ZREM', P .. 'parked', f[1] .. '|' .. job)
  redis.call('HSET', k, 'pk', '-')
  parked.list(job, '-', f[2])
end
local state = redis.call('HGET', key('job', A.job), 'st')
if not state or hidden(A.job) then return { 'unknown', {}, 0 } end
if state == 'paused' then stay_parked(A.job) end
if state ~= 'running' then return { state, {}, 0 } end
local left = pause_job(A.job, A.reason)
return { 'paused', tickets, left and 1 or 0 }
