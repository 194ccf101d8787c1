-- regain: leases that have ended, or that Redis has lost, are the caller's again where nobody has the step.
-- ARGV 1: claims, lease_us, retention_ms
--   claims: list of {job, step, attempt, token, birth, digest, worker}
-- returns: the places in the list, from 0, of those that are lost
-- flags: allow-oom
-- include: order, limits, sweep, mend

-- The caller is still at work on them: one that comes back from a stall does not compete with itself.
local now = clock()
local lost = {}
for i, c in ipairs(A.claims) do
  local answered = 'u|' .. c.token
  local facts = redis.pcall('HMGET', key('job', c.job), 'st', 'dg', 'sw', answered)
  if facts.err then -- no hash at all: it keeps none of the others, and `walk` looks at it
    mark(c.job)
    left_marked[c.job] = true
  end
  local waits = facts[1] == 'running' and 'ready' or facts[1] == 'paused' and 'parked'
  local h = waits and head(c.job, c.step)
  if h and facts[3] and c.step ~= TURN then -- it may not have followed its job yet
    follow(c.job, c.step, h, facts[1])
    h = head(c.job, c.step)
  end
  -- (What this claim has answered was undone by a retry: it is another's by now.)
  local same = h and not facts[4] and h[H.state] == waits and birth_of(facts[2] or '') == c.birth and h[H.digest] == c.digest
  -- One that was given back (started is 0) is not taken up by a renewal that crosses it, unless Redis never knew of the claim.
  local ours = same and ((h[H.token] == c.token and h[H.started] > 0) or (h[H.token] ~= c.token and h[H.attempt] < c.attempt))
  if ours and (waits == 'parked' or take(c.job, c.step, h) or unhold(c.job, c.step, h)) then
    if h[H.token] == c.token then
      h[H.lost] = math.max(0, h[H.lost] - 1)
    else
      h[H.started] = stamp()
    end
    if h[H.first] == 0 then h[H.first] = h[H.started] end
    h[H.state], h[H.attempt], h[H.token], h[H.worker] = 'leased', c.attempt, c.token, c.worker
    enter(h, c.job, c.step, now)
    redis.call('ZADD', P .. 'leases', int(now + A.lease_us), lease_of(c.job, c.step, h))
    event(c.job, stamp(), 'regained', c.step, c.worker)
    for _, name in ipairs(limits_of(c.job, h)) do
      let_in(name)
    end -- it stood on the lane, perhaps: its room there is for the next
  else
    lost[#lost + 1] = i - 1
  end
end
return lost
