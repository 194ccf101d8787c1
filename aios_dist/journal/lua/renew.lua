-- renew: all leases of one worker, in one call.
-- ARGV 1: leases, lease_us, retention_ms
--   leases: list of "job/step#attempt"
-- returns: the leases that are no longer the caller's
-- include: limits
local now = clock()
local till = int(now + A.lease_us)
local lost = {}
for _, lease in ipairs(A.leases) do
  if redis.call('ZSCORE', P .. 'leases', lease) then
    redis.call('ZADD', P .. 'leases', 'XX', till, lease)
  else
    -- It has ended, and the step went back to its lane. Where nobody has taken it since, it is the caller's
    -- again, who is still at work on it: one that comes back from a stall does not compete with itself.
    local m, attempt = string.match(lease, '^(.*)#(%d+)$')
    local job, step = split(m or '')
    local h = job and head(job, step)
    if h and h[H.state] == 'ready' and h[H.attempt] == tonumber(attempt) and h[H.started] > 0
        and take(job, step, h) then
      h[H.state], h[H.lost] = 'leased', math.max(0, h[H.lost] - 1)
      enter(h, job, step, now)
      put(job, step, h)
      redis.call('ZADD', P .. 'leases', till, lease)
      event(job, stamp(), 'regained', step, h[H.worker])
    else
      lost[#lost + 1] = lease
    end
  end
end
return lost
