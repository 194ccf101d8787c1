-- submit: create jobs, and the plan between them; all or nothing; the same id twice is the same job.
-- ARGV 1: jobs, plan, retention_ms
--   jobs: list of {id, rec (begins with dig), dig, decision | nil, parent (node of the plan) | nil, facts, deadline_us}
--     facts: flat list of further fields of the job: who, budget …; deadline_us: 0 for none
--   plan: nil, or {id, dig, nodes: list of {mode, parent, children, on_failure}, links: list of {node, k, child},
--     places: {places, jobs} of an agent-first root, else empty}
-- returns: {status, tickets, detail}: status is "new", "same" (nothing changed) or "conflict" (nothing
--   written; detail is the id); detail else is a list of "new" | "same", by job
-- include: plan
local plan = A.plan
if plan and redis.call('EXISTS', key('plan', plan.id)) == 1 then
  if redis.call('HGET', key('plan', plan.id), 'dig') == plan.dig then return { 'same', {}, {} } end
  for _, j in ipairs(A.jobs) do
    if digest_of(j.id) ~= j.dig then return { 'conflict', {}, j.id } end
  end
  return { 'conflict', {}, plan.id }   -- the same jobs in another order or under other rules
end
local fresh, report, seen = {}, {}, {}
for i, j in ipairs(A.jobs) do
  local known = seen[j.id] or digest_of(j.id)
  seen[j.id] = j.dig
  if known and (plan or known ~= j.dig) then return { 'conflict', {}, j.id } end
  fresh[i] = not known
  report[i] = known and 'same' or 'new'
end
local state = plan and 'waiting' or 'running'
for i, j in ipairs(A.jobs) do
  if fresh[i] then
    local at, k = stamp(), key('job', j.id)
    redis.call('HSET', k, 'st', state, 'n', 0, 'rec', j.rec, 't0', int(at))
    redis.call('HSET', k, unpack(j.facts))
    if j.deadline_us > 0 then redis.call('ZADD', P .. 'deadlines', int(clock() + j.deadline_us), j.id) end
    if plan then redis.call('HSET', k, 'pl', plan.id, 'pn', int(j.parent)) end
    redis.call('ZADD', P .. 'open', int(at), j.id)
    event(j.id, at, 'submitted', '')
    if j.decision then apply_turn(j.id, j.decision, state)
    elseif not plan then need_turn(j.id) end
  end
end
if plan then
  redis.call('HSET', key('plan', plan.id), 'st', 'running', 'dig', plan.dig, 'n', #plan.nodes)
  if #plan.places > 0 and plan.nodes[1].mode == 'agent-first' then
    local places = int(plan.places[1])
    redis.call('HSET', key('plan', plan.id), 'places', places .. '|' .. int(plan.places[2]), 'next', places)
  end
  for i, v in ipairs(plan.nodes) do
    put_node(plan.id, int(i - 1), { v.mode, v.parent, v.children, 0, 0, v.on_failure, 0 })
  end
  for _, l in ipairs(plan.links) do
    redis.call('HSET', key('plan', plan.id), 'c' .. int(l.node) .. '.' .. int(l.k), l.child)
  end
  admit_root(plan.id)
end
return { 'new', tickets, report }
