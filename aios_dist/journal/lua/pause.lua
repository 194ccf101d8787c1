-- pause: a running job stops where it is; what waits is put aside, calls in flight end and are kept.
-- ARGV 1: job, reason, retention_ms
-- returns: "paused" (also when it was), "unknown", or the state that forbids it
-- include: plan
local state = redis.call('HGET', key('job', A.job), 'st')
if not state or hidden(A.job) then return 'unknown' end
if state == 'paused' then return 'paused' end
if state ~= 'running' then return state end
pause_job(A.job, A.reason)
return 'paused'
