-- release: give a claimed step back, with the rank that it had.
-- ARGV 1: job, step, token, reason, after_us, error, refusal, model, lane, most_back, dead_outcome, due_us, retention_ms
--   after_us: 0 puts it on its lane at once, else it waits that long without a slot
--   error: '' or the encoded error of a failed try, which then counts as one
--   refusal: nil, or what the failure says of its model: {hold_us, breaker}, see hold in _limits.lua
--   most_back: how often a step may be given back without a failed try or an outcome; 0 does not count this time.
--     Then dead_outcome is its outcome
--   model, lane: '' or another model that the step goes to, and the lane of that
-- returns: {status, tickets}: "released" or "fenced"
-- flags: allow-oom
-- include: order, limits, plan, mend
local h = head(A.job, A.step)
if not h or h[H.state] ~= 'leased' or h[H.token] ~= A.token then return { 'fenced', {} } end
mark(A.job)
redis.call('ZREM', P .. 'leases', lease_of(A.job, A.step, h))
local began = h[H.started]
local at, now = stamp(), clock() -- one time for the hold and the step's own: it goes before those that are held
settle(A.job, h, 0)
if A.refusal then hold(h[H.label], A.refusal, began, now) end
leave(h, A.job, A.step, 0, false)
h[H.started] = 0 -- given back, not lost: a renewal that crosses this does not take it again
if A.error ~= '' then
  h[H.back] = 0
elseif A.most_back > 0 then
  h[H.back] = (h[H.back] or 0) + 1
end
if A.error ~= '' then
  h[H.tries] = (h[H.tries] or 0) + 1
  redis.call('HSET', key('job', A.job), 'e' .. A.step, A.error)
end
local what = A.error ~= '' and 'retry' or 'released' -- a failed try is told as one, wherever the step goes
local moved = A.model ~= '' and leave_model(A.job, A.step, h, A.lane, A.model)
local state = redis.call('HGET', key('job', A.job), 'st')
if state ~= 'running' then
  h[H.state] = state == 'paused' and 'parked' or 'dropped'
  if A.step == TURN then
    h[H.state] = 'idle'
    if state == 'paused' then redis.call('HSET', key('job', A.job), 'wake', 1) end
  end
  put(A.job, A.step, h)
  if what == 'retry' and state == 'paused' then event(A.job, at, what, A.step, A.reason) end
  return { 'released', tickets }
end
if A.most_back > 0 and (h[H.back] or 0) >= A.most_back and A.error == '' and give_up(A.job, A.step, h, A.dead_outcome, A.due_us) then
  return { 'released', tickets }
end
if A.refusal and A.model == '' and keeps_waiting(h[H.label], now) and other_model(A.job, A.step, h, now) then
  if what == 'retry' then event(A.job, at, what, A.step, A.reason) end -- beside that it goes to another, which does not wait for this one
  divert(A.job, A.step, h, now, true)
  return { 'released', tickets }
end
if A.after_us == 0 then
  back(A.job, A.step, h, at, A.reason, not moved, what)
else
  h[H.state] = 'ready'
  put(A.job, A.step, h)
  redis.call('ZADD', P .. 'timers', int(now + A.after_us), member(A.job, A.step))
  event(A.job, at, what, A.step, A.reason)
end
return { 'released', tickets }
