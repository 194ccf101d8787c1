-- release: give a claimed step back, with the rank that it had.
-- ARGV 1: job, step, attempt, reason, after_us
--   after_us: 0 puts it on its lane at once, else it waits that long without a slot
-- returns: {status, tickets}: "released" or "fenced"
local h = head(A.job, A.step)
if not h or h[H.state] ~= 'leased' or h[H.attempt] ~= A.attempt then return { 'fenced', {} } end
redis.call('ZREM', P .. 'leases', lease_of(A.job, A.step, A.attempt))
local at = stamp()
if redis.call('HGET', key('job', A.job), 'st') ~= 'running' then
  h[H.state] = 'dropped'
  put(A.job, A.step, h)
  return { 'released', {} }
end
if A.after_us == 0 then
  back(A.job, A.step, h, at, A.reason)
else
  h[H.state] = 'ready'
  put(A.job, A.step, h)
  redis.call('ZADD', P .. 'timers', int(clock() + A.after_us), member(A.job, A.step))
  event(A.job, at, 'released', A.step, A.reason)
end
return { 'released', tickets }
