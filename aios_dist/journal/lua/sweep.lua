-- sweep: a slice more of the steps of a wide job follow its state, see _sweep.
-- ARGV 1: job, retention_ms
--   job: its id; '' for the next of all with which nobody goes on
-- returns: {job, or '' where there is none; tickets; 1 where there is more to do now; how many waiting steps have another place}
-- include: plan
by_caller = A.job ~= ''
local job = A.job
if job == '' then job = redis.call('ZRANGEBYSCORE', P .. 'sweeps', 0, int(clock()), 'LIMIT', 0, 1)[1] end
if not job then return { '', {}, 0, 0 } end
local left, moved = follow_on(job)
if A.job == '' and not left then left = #redis.call('ZRANGEBYSCORE', P .. 'sweeps', 0, int(clock()), 'LIMIT', 0, 1) > 0 end
return { job, tickets, left and 1 or 0, moved }
