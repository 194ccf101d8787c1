-- submit: create jobs, and the plan between them; all or nothing; the same id twice is the same job.
-- ARGV 1: jobs, plan, retention_ms
--   jobs: list of {id, birth (random), rec (begins with dig), dig, decision | nil, parent (node of the plan) | nil, facts, deadline_us}
--     facts: flat list of further fields of the job: who, budget …; deadline_us: 0 for none
--   plan: nil, or {id, dig, nodes: list of {mode, parent, children, on_failure}, links: list of {node, k, child},
--     places: {places, jobs} of an agent-first root, else empty}
-- returns: {status, tickets, detail}: status is "new", "same" (nothing changed) or "conflict" (nothing
--   written; detail is the id); detail else is a list of "new" | "same", by job
-- include: new
local plan = A.plan
local k = plan and key('plan', plan.id)
if plan and redis.call('HEXISTS', k, 'half') == 1 then redis.call('DEL', k) end   -- its jobs are thrown away below
if plan and redis.call('EXISTS', k) == 1 then
  if redis.call('HGET', k, 'dig') == plan.dig then return { 'same', {}, {} } end
  for _, j in ipairs(A.jobs) do
    if known(j.id) ~= j.dig then return { 'conflict', {}, j.id } end
  end
  return { 'conflict', {}, plan.id }   -- the same jobs in another order or under other rules
end
local fresh, report, seen = {}, {}, {}
for i, j in ipairs(A.jobs) do
  local before = seen[j.id] or known(j.id)
  seen[j.id] = j.dig
  if before and (plan or before ~= j.dig) then return { 'conflict', {}, j.id } end
  fresh[i] = not before
  report[i] = before and 'same' or 'new'
end
local state = plan and 'waiting' or 'running'
if plan then
  created_plan = k
  redis.call('HSET', k, 'half', 1, 'st', 'running', 'dig', plan.dig, 'n', #plan.nodes)
end
for i, j in ipairs(A.jobs) do
  if fresh[i] then
    create(j, state, plan and { 'pl', plan.id, 'pn', int(j.parent) } or {})
    event(j.id, stamp(), 'submitted', '')
    if j.decision then apply_turn(j.id, j.decision, state)
    elseif not plan then need_turn(j.id) end
    if not plan then whole(j.id) end
  end
end
if plan then
  if #plan.places > 0 and plan.nodes[1].mode == 'agent-first' then
    local places = int(plan.places[1])
    redis.call('HSET', k, 'places', places .. '|' .. int(plan.places[2]), 'next', places)
  end
  for i, v in ipairs(plan.nodes) do
    put_node(plan.id, int(i - 1), { v.mode, v.parent, v.children, 0, 0, v.on_failure, 0 })
  end
  for _, l in ipairs(plan.links) do
    redis.call('HSET', k, 'c' .. int(l.node) .. '.' .. int(l.k), l.child)
  end
  admit_root(plan.id)
  redis.call('HDEL', k, 'half')
  for _, j in ipairs(A.jobs) do whole(j.id) end
end
return { 'new', tickets, report }
