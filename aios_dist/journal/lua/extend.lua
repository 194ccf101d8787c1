-- extend: more jobs at the tail of a plan, also while it runs or after its last job has ended.
-- ARGV 1: plan, jobs, retention_ms
--   jobs: as for submit
-- returns: {"extended", tickets} (without tickets where the same jobs were added before) | {"unknown"}
--   | {"stopped"} (the plan ended with a failure) | {"conflict", id}
-- include: new
local k = key('plan', A.plan)
local state = redis.call('HGET', k, 'st')
if not state then return { 'unknown' } end
local before, seen = nil, {}
local count = 0
for _, j in ipairs(A.jobs) do
  local dig, was = known(j.id), redis.call('HMGET', key('job', j.id), 'pl', 'of')
  local of = was[1] or was[2]   -- one that was retried has been added all the same
  if seen[j.id] or (dig and (dig ~= j.dig or of ~= A.plan)) then return { 'conflict', j.id } end
  seen[j.id] = true
  if dig then before, count = before or j.id, count + 1 end
end
if count == #A.jobs then return { 'extended', {} } end
if before then return { 'conflict', before } end
if state == 'failed' then return { 'stopped' } end
plans_touched[1] = A.plan
if state == 'done' then
  redis.call('HSET', k, 'st', 'running')
  redis.call('PERSIST', k)
end
local v = node(A.plan, '0')
local members = v[N.children]
joined = function() return node(A.plan, '0')[N.children] > members end
local places = redis.call('HGET', k, 'places')
for _, j in ipairs(A.jobs) do
  local jk = key('job', j.id)
  create(j, 'waiting', { 'pl', A.plan, 'pn', '0' })
  if places then   -- its steps go behind all that the plan has now
    redis.call('HSET', jk, 'pp', '0|' .. (redis.call('HINCRBY', k, 'next', 1) - 1) .. '|' .. places)
  end
  event(j.id, stamp(), 'submitted', '')
  if j.decision then apply_turn(j.id, j.decision, 'waiting') end
  redis.call('HSET', k, 'c0.' .. int(v[N.children]), 'j' .. j.id)
  v[N.children] = v[N.children] + 1
end
put_node(A.plan, '0', v)
for _, j in ipairs(A.jobs) do whole(j.id) end
admit_root(A.plan)   -- a fixed plan at rest, or any fifo plan, takes the newcomers at once
return { 'extended', tickets }
