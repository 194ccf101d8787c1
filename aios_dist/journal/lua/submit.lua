-- submit: create jobs, and the plan between them; all or nothing; the same id twice is the same job.
-- ARGV 1: jobs, plan, retention_ms
--   jobs: list of {id, birth (random), rec (begins with dig), dig, decision | nil, parent (node of the plan) | nil, facts, deadline_us}
--     facts: flat list of further fields of the job: who, budget …; deadline_us: 0 for none
--   plan: nil, or a slice of one: {id, dig, size: nodes of all of it, all: its jobs, places: {places, jobs} of an agent-first root, else empty,
--     nodes: list of {mode, parent, children, on_failure}, node: the number of the first of them, links: list of {node, k, child},
--     first, upto: how many items (nodes, links of nodes, jobs) stand before and after it, last: 1 with the last}
-- returns: {status, tickets, detail, more}: status is "new", "same" (nothing changed), "conflict" (nothing is left of it; detail is the
--   id), "more" (send the slice from item `detail` on) or "again" (send the same again: what was there is being thrown away);
--   with "new" detail is a list of "new" | "same", by job. more: 1 where the plan has something left to do (plans)
-- include: order, plan, members, mend, new
local plan = A.plan
local k = plan and key('plan', plan.id)
if plan then
  local f = redis.call('HMGET', k, 'st', 'dig', 'half', 'half>')
  if f[3] == '1' then
    redis.call('DEL', k) -- of a release that knew no slices; its jobs are thrown away below
  elseif f[3] and f[3] ~= '' then
    if f[4] or (f[2] ~= plan.dig and abandoned(f[3])) then
      if not throw_slice(plan.id, 'half') then return { 'again', {}, 0, 0 } end
    elseif f[2] ~= plan.dig then
      return { 'conflict', {}, plan.id, 0 }
    else
      local at = numbers(f[3])[2]
      if at ~= plan.first then return { 'more', {}, at, 0 } end
    end
  elseif f[1] then
    if f[2] == plan.dig then return { 'same', {}, {}, 0 } end
    for _, j in ipairs(A.jobs) do
      if known(j.id) ~= j.dig then return { 'conflict', {}, j.id, 0 } end
    end
    return { 'conflict', {}, plan.id, 0 } -- the same jobs in another order or under other rules
  end
  if plan.first > 0 and redis.call('EXISTS', k) == 0 then return { 'more', {}, 0, 0 } end -- it has been thrown away meanwhile
end
local fresh, report, seen = {}, {}, {}
for i, j in ipairs(A.jobs) do
  local before = seen[j.id] or known(j.id, plan and plan.id, 'half')
  seen[j.id] = j.dig
  if before and (plan or before ~= j.dig) then
    if plan and plan.first > 0 then give_back(plan.id, 'half') end
    return { 'conflict', {}, j.id, 0 }
  end
  fresh[i] = not before
  report[i] = before and 'same' or 'new'
end
if not plan then
  for i, j in ipairs(A.jobs) do
    if fresh[i] then
      create(j, 'running', nil, {})
      event(j.id, stamp(), 'submitted', '')
      if j.decision then apply_turn(j.id, j.decision, 'running') end
      if not j.decision or j.decision.more > 0 then need_turn(j.id) end
      whole(j.id)
    end
  end
  return { 'new', tickets, report, 0 }
end
wrote = true
local at_once = plan.first == 0 and plan.last == 1 -- all of it in this call
created.joined = function()
  local f = redis.call('HMGET', k, 'st', 'half')
  return f[1] and (not f[2] or f[2] == '')
end
if plan.first == 0 then
  created.plan = k
  redis.call('HSET', k, 'half', int(clock()) .. '|0', 'st', 'running', 'dig', plan.dig, 'n', int(plan.size), 'all', int(plan.all))
  if #plan.places > 0 then
    local places = int(plan.places[1])
    redis.call('HSET', k, 'places', places .. '|' .. int(plan.places[2]), 'next', places)
  end
end
local fields = {}
for i, v in ipairs(plan.nodes) do
  fields[#fields + 1] = 'node' .. int(plan.node + i - 1)
  fields[#fields + 1] = cmsgpack.pack({ v.mode, v.parent, v.children, 0, 0, v.on_failure, 0, 0 })
end
for _, l in ipairs(plan.links) do
  fields[#fields + 1] = 'c' .. int(l.node) .. '.' .. int(l.k)
  fields[#fields + 1] = l.child
end
for at = 1, #fields, 2000 do
  redis.call('HSET', k, unpack(fields, at, math.min(#fields, at + 1999)))
end
for _, j in ipairs(A.jobs) do
  create_member(j, plan.id, j.parent, not at_once and 'half' or nil)
end
if plan.last ~= 1 then
  stands(plan.id, 'half', plan.upto)
  return { 'more', {}, plan.upto, 0 }
end
redis.call('HSET', k, 'half', '', 'todo', '0') -- from here on it is there
redis.call('HDEL', k, 'half')
if at_once then
  for _, j in ipairs(A.jobs) do
    whole(j.id)
  end
else
  redis.call('ZREM', P .. 'plans', plan.id)
end
local over = go_on(plan.id)
return { 'new', tickets, report, over and 0 or 1 }
