-- cancel: end a job that has not ended; waiting steps are dropped, calls in flight are told.
-- ARGV 1: job, retention_ms
-- returns: {status, tickets}: "cancelled", "unknown", or "ended" (it had ended before)
-- include: plan
local state = redis.call('HGET', key('job', A.job), 'st')
if not state or hidden(A.job) then return { 'unknown', {} } end
if end_job(A.job, 'cancelled', '') then return { 'cancelled', tickets } end
return { 'ended', {} }
