-- pause: a running job stops where it is; what waits is put aside, calls in flight end and are kept.
-- ARGV 1: job, reason, retention_ms
-- returns: {status, tickets, more}: "paused" (also when it was), "unknown", or the state that forbids it; more: see cancel
-- include: plan
by_caller = true
local state = redis.call('HGET', key('job', A.job), 'st')
if not state or hidden(A.job) then return { 'unknown', {}, 0 } end
if state ~= 'running' then return { state, {}, 0 } end
local left = pause_job(A.job, A.reason)
return { 'paused', tickets, left and 1 or 0 }
