-- resume: a paused job goes on; its steps wait again with the rank that they had.
-- ARGV 1: job, facts, retention_ms
--   facts: flat list of fields to change first: a new budget
-- returns: {status, tickets, more}: "running" (also when it was), "unknown", or the state that forbids it; more: see cancel
-- include: sweep, mend, resume
by_caller = true
local k = key('job', A.job)
local state = redis.call('HGET', k, 'st')
if not state or hidden(A.job) then return { 'unknown', {}, 0 } end
if state ~= 'paused' and state ~= 'running' then return { state, {}, 0 } end
if #A.facts > 0 then
  mark(A.job)
  redis.call('HSET', k, unpack(A.facts))
end
if state == 'running' then return { 'running', {}, 0 } end
local left = resume_job(A.job)
return { 'running', tickets, left and 1 or 0 }
