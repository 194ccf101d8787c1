-- cancel: end a job that has not ended; waiting steps are dropped, calls in flight are told.
-- ARGV 1: job, retention_ms
-- returns: {status, tickets, more}: "cancelled", "unknown", or "ended" (it had ended before); more: 1 where steps have still to
--   follow (sweep)
-- flags: allow-oom
-- include: plan, sweep, mend
by_caller = true
local state = redis.call('HGET', key('job', A.job), 'st')
if not state or hidden(A.job) then return { 'unknown', {}, 0 } end
local now, left = end_job(A.job, 'cancelled', '')
if now then return { 'cancelled', tickets, left and 1 or 0 } end
return { 'ended', {}, 0 }
