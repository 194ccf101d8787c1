-- extend: more jobs at the tail of a plan, also while it runs or after its last job has ended.
-- ARGV 1: plan, jobs, retention_ms
--   jobs: as for submit
-- returns: {"extended", tickets} | {"unknown"} | {"stopped"} (the plan ended with a failure) | {"conflict", id}
-- include: plan
local k = key('plan', A.plan)
local state = redis.call('HGET', k, 'st')
if not state then return { 'unknown' } end
if state == 'failed' then return { 'stopped' } end
for _, j in ipairs(A.jobs) do
  if redis.call('EXISTS', key('job', j.id)) == 1 then return { 'conflict', j.id } end
end
if state == 'done' then
  redis.call('HSET', k, 'st', 'running')
  redis.call('PERSIST', k)
end
for _, j in ipairs(A.jobs) do
  local at, jk = stamp(), key('job', j.id)
  redis.call('HSET', jk, 'st', 'waiting', 'v', 0, 'n', 0, 'op', 0, 'rec', j.rec, 'dig', j.dig,
             't0', int(at), 'pl', A.plan, 'pn', '0')
  redis.call('ZADD', P .. 'open', int(at), j.id)
  event(j.id, at, 'submitted', '')
  if j.decision then apply_turn(j.id, j.decision, 'waiting') end
  local v = node(A.plan, '0')
  redis.call('HSET', k, 'c0.' .. int(v[N.children]), 'j' .. j.id)
  v[N.children] = v[N.children] + 1
  -- A fixed plan at rest, or any fifo plan, takes the newcomer at once.
  local now = v[N.mode] == 'fifo' or v[N.ended] == v[N.children] - 1
  if now then v[N.admitted] = v[N.children] end
  put_node(A.plan, '0', v)
  if now then admit_job(j.id) end
end
return { 'extended', tickets }
