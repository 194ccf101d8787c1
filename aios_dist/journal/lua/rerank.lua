-- rerank: another priority for a job, also while its steps wait.
-- ARGV 1: job, priority, retention_ms
-- returns: {state of the job, how many waiting steps moved, more}, or {"unknown", 0, 0}; more: see cancel
-- flags: allow-oom
-- include: limits, sweep, mend
by_caller = true
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'n', 'pr', 'pp')
if not facts[1] or hidden(A.job) then return { 'unknown', 0, 0 } end
if facts[1] ~= 'waiting' and facts[1] ~= 'running' and facts[1] ~= 'paused' then return { facts[1], 0, 0 } end
local by = A.priority - number(facts[3])
if by == 0 then return { facts[1], 0, 0 } end
mark(A.job)
redis.call('HSET', k, 'pr', int(A.priority))
local moved, left = 0, false
if wide(facts[2]) then
  left, moved = follow_all(A.job, facts[1], facts[2])
end
local last = (facts[4] or wide(facts[2])) and -1 or steps_of(A.job, facts[2]) - 1 -- an agent-first plan has an order of its own
for step = 0, last do
  local h = head(A.job, step)
  local state = h[H.state]
  if h[H.level] ~= 0 and (state == 'ready' or state == 'parked' or state == 'leased') then
    h[H.rank] = h[H.rank] - h[H.level] * by
    put(A.job, step, h)
    if state == 'ready' and move(A.job, step, h) then moved = moved + 1 end
  end
end
event(A.job, stamp(), 'reranked', '', 'priority ' .. int(A.priority))
return { facts[1], moved, left and 1 or 0 }
