-- aside: a worker cannot read what a job holds; it is marked, and `walk` sets the job aside.
-- ARGV 1: job, why, retention_ms
-- returns: 1, or 0 where there is no such job any more
-- flags: allow-oom
-- include: mend
local k = key('job', A.job)
if not redis.call('HGET', k, 'st') then return 0 end
mark(A.job)
redis.call('HSET', k, 'bad', A.why)
left_marked[A.job] = true
return 1
