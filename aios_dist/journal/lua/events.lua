-- events: what has happened to a job after the event of that number. Reads only.
-- ARGV 1: job, after, most, retention_ms
--   most: events; of a wide job, who asks goes on
-- returns: list of packed events
-- flags: no-writes
local list = key('ev', A.job)
if redis.call('EXISTS', list) == 1 then return redis.call('LRANGE', list, int(A.after + 1), int(A.after + A.most)) end
local all, wanted = first_events(A.job), {}
for n = A.after + 1, math.min(#all - 1, A.after + A.most) do
  wanted[#wanted + 1] = all[n + 1]
end
return wanted
