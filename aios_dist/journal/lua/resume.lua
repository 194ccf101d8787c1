-- resume: a paused job goes on; its steps wait again with the rank that they had.
-- ARGV 1: job, facts, retention_ms
--   facts: flat list of fields to change first: a new budget
-- returns: {status, tickets}: "running" (also when it was), "unknown", or the state that forbids it
-- include: plan
local k = key('job', A.job)
local state = redis.call('HGET', k, 'st')
if not state or hidden(A.job) then return { 'unknown', {} } end
if state ~= 'paused' and state ~= 'running' then return { state, {} } end
if #A.facts > 0 then
  mark(A.job)
  redis.call('HSET', k, unpack(A.facts))
end
if state == 'running' then return { 'running', {} } end
mark(A.job)
redis.call('HSET', k, 'st', 'running')
redis.call('HDEL', k, 'why')
local at = stamp()
event(A.job, at, 'resumed', '')
local facts = redis.call('HMGET', k, 'n', 'v', 'wake')
for step = 0, steps_of(A.job, facts[1]) - 1 do
  local h = head(A.job, step)
  if h and h[H.state] == 'parked' then back(A.job, step, h, at, 'resumed') end
end
if facts[3] or number(facts[1]) <= number(facts[2]) then
  redis.call('HDEL', k, 'wake')
  need_turn(A.job)
end
return { 'running', tickets }
