-- claim: the best ready step of a lane that may run, leased to a worker.
-- ARGV 1: lane, worker, token, again, models, agents, lease_us, retention_ms, budget_outcome
--   token: random, of this claim alone; again: 1 where the answer to the same claim was lost
--   models, agents: what the worker can serve; nil: everything
--   budget_outcome: the encoded error of a job that ends because its budget is used up
-- returns: {tickets, why}: nothing may run here ("", or "others": what waits is for workers that serve more, "more":
--   there may be a step behind those that were looked at), else {tickets, job, step, attempt, kind, label, record,
--   request, version, ready, started, tries, µs in calls, basis, digest, first try, estimate, cost, over}
--   over: the tokens a minute that its model may have, where the step's estimate alone is more; else 0
-- include: limits
local function claimed(job, step, h, facts, over)
  return { tickets, job, step, h[H.attempt], h[H.kind], h[H.label], facts[2], facts[5] or '', number(facts[3]),
           int(h[H.ready]), int(h[H.started]), h[H.tries] or 0, facts[8] or '0', facts[9] or '', h[H.digest],
           int(h[H.first]), h[H.est], h[H.cost], over or 0 }
end
local function facts_of(job, step)
  return redis.call('HMGET', key('job', job), 'st', 'rec', 'v', 'h' .. step, 'q' .. step, 'who', 'ob', 'us', 'dg')
end

if A.again == 1 then   -- rare: a look at all leases is cheaper than a book of claims
  for _, lease in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
    local job, step, token = split_lease(lease)
    if token == A.token then
      local facts = facts_of(job, step)
      local h = unpacked(facts[4])
      local goes_on = facts[1] == 'running' or facts[1] == 'paused'
      if goes_on and h and h[H.state] == 'leased' and h[H.token] == token then
        local _, _, _, _, over = allowed(h[H.label], h[H.kind] == 'llm' and bounded(h[H.est]) or 0, clock())
        return claimed(job, step, h, facts, over)
      end
    end
  end
end

local function has(list, name)
  if not list then return true end
  for _, known in ipairs(list) do
    if known == name then return true end
  end
  return false
end

-- Whether this worker can serve the step. Data agents need no code.
local function serves(h, facts)
  if h[H.kind] == 'llm' then return has(A.models, h[H.label]) end
  return not A.agents or string.sub(facts[9] or '', 1, 1) == 'd'
    or has(A.agents, string.match(facts[6] or '', '|(.*)$'))
end

-- What others could not serve, and we can, goes by its rank among the rest: the first of each kind. Gives whether there was one.
local function bring()
  local some = false
  for _, need in ipairs(redis.call('ZRANGE', key('wanted', A.lane), 0, -1)) do
    local kind, name = string.match(need, '^(%a+)/(.*)$')
    if has(kind == 'model' and A.models or kind == 'agent' and A.agents or nil, name) then
      local function one(oldest)
        local top, _, tenant = first_held('?' .. need, oldest)
        if not top then return false end
        local job, step = split(top)
        local h = head(job, step)
        take_from('held', '?' .. need, top, tenant)
        if h and h[H.state] == 'ready' then place(job, step, h, true) end
        return true
      end
      if one(false) then
        some = true
        if rules(A.lane).oldest > 0 then one(true) end   -- perhaps it is the turn of the one that has waited longest
      else
        redis.call('ZREM', key('wanted', A.lane), need)
      end
    end
  end
  return some
end
bring()

local over   -- the limit that the step at hand can never keep to
local function may_start(name, est, now, steady)
  local yes, again, left, as_before, most = allowed(name, est, now)
  steady[name] = as_before
  over = most
  return yes, again, not yes and left
end

local MOST_DIVERTED = 20   -- by one claim; the reconciler sees to the rest
-- One that a limit held goes before the one at hand, which waits where it belongs; and no other before it in this call:
-- what is ranked under other rules has another order by age than by rank.
local swapped, next_top, next_aged = {}, nil, false
local function swap(name, first, part, has, job, step, h)
  swapped[first] = true
  local job1, step1 = split(first)
  local h1 = head(job1, step1)
  take_from('held', name, first, part)
  if h1 and h1[H.state] == 'ready' and place(job1, step1, h1, false, has, name) then next_top = first end
  if place(job, step, h, true) then ticket(h[H.lane], job, step) end
end

-- The step that the model has held and that goes before the one at hand: its name, tenant and how that stands among the held.
local function goes_before(model, job, h, aged)
  local mine, tenant = aged and h[H.ready] or h[H.rank], tenant_of(job)
  local first, score, other, has_had = first_held(model, aged)
  if not first or not other or other == tenant then
    if first and score < mine then return first, other, has_had end
    return nil
  end
  local had = redis.call('ZSCORE', key('heldby', model), tenant)
  had = tonumber(had or number(counter(h[H.lane], tenant)) - scale_of(model))
  -- among equals by name, as on the lane; where it has steps there too, it competes by those
  local before = (has_had < had or (has_had == had and other < tenant)) and not redis.call('ZSCORE', key('readyby', h[H.lane]), other)
  local of = before and other or tenant   -- the turn of the oldest is each tenant's own, and so is its order
  local by_age = before and turn_of_oldest(h[H.lane], other, 0) or (not before and aged)
  local top = redis.call('ZRANGE', key(by_age and 'heldold' or 'held', compartment(model, of)), 0, 0, 'WITHSCORES')
  if before then
    next_aged = by_age
    return top[1] or first, other, has_had
  end
  if top[1] and tonumber(top[2]) < mine then return top[1], tenant, had end
end

local looked, others, diverted = 0, false, 0
while looked < 64 do   -- steps set aside by this call: a bound, so that one call never blocks Redis for long
  looked = looked + 1
  let_in_freed()
  local top, aged
  if next_top then
    local job1, step1 = split(next_top)
    local h1 = head(job1, step1)
    if h1 and h1[H.lane] == A.lane and take(job1, step1, h1) then top, aged = next_top, next_aged end
    next_top = nil
  end
  if not top then top, aged = take_best(A.lane) end
  next_aged = aged
  while not top and looked < 64 and bring() do   -- the first may have been set aside, and not those behind
    looked = looked + 1
    top, aged = take_best(A.lane)
  end
  if not top then return { tickets, others and 'others' or '' } end
  local job, step = split(top)
  if not job then job, step = top, '' end   -- not one of ours: passed over
  local facts = facts_of(job, step)
  local h, tenant = unpacked(facts[4]), tenant_in(facts[6])
  whos[job] = facts[6] or nil
  if facts[1] == 'running' and not h then kept[job] = true end   -- it cannot be read: `walk` sets its job aside
  if h and facts[1] ~= 'running' and h[H.state] == 'ready' and step ~= TURN then   -- it has not followed its job yet
    for _, name in ipairs(limits_of(job, h)) do
      redis.call('ZREM', in_set(h[H.lane], name), top)
      later(name)
    end
    follow(job, step, h, facts[1])
  elseif facts[1] == 'running' and h and h[H.state] == 'ready' and h[H.lane] == A.lane then
    local now, may, limits = clock(), true, limits_of(job, h)
    over = nil
    local limited, steady = {}, {}
    for _, name in ipairs(limits) do
      limited[name] = true
      redis.call('ZREM', in_set(h[H.lane], name), top)
    end
    if not serves(h, facts) then
      others = leave_to_others(job, step, h) or others
      may = false
      for _, name in ipairs(limits) do let_in(name) end   -- its room is for another
    elseif h[H.kind] == 'llm' then
      local spent = over_budget(job, tenant)
      local own = '@' .. tenant
      if spent then
        place(job, step, h, true)   -- where pausing and ending look for it
        if facts[7] == 'fail' then end_job(job, 'failed', A.budget_outcome)
        else pause_job(job, 'budget of the ' .. spent .. ' used up') end
        may = false
      elseif limited[own] and not may_start(own, 0, now, steady) then
        hold_back(own, job, step, h)
        may = false
        if limited[h[H.label]] then let_in(h[H.label]) end   -- it may have been let in: the room is for another
      else
        local model, first, rank, part = h[H.label], nil, nil, nil
        if limited[own] then first, rank, part = first_held(own, aged, A.lane) end
        if first and not swapped[top] and rank < (aged and h[H.ready] or h[H.rank]) then   -- of one tenant the order is the lane's
          swap(own, first, part, nil, job, step, h)
          may = false
        elseif limited[model] then
          local yes, again, left = may_start(model, bounded(h[H.est]), now, steady)
          local first, other, has_had
          if yes and not swapped[top] then first, other, has_had = goes_before(model, job, h, aged) end
          if first then   -- where it needs more room, we wait with it
            local job1, step1 = split(first)
            local h1 = head(job1, step1)
            yes, again, left = allowed(model, h1 and bounded(h1[H.est]) or 0, now)
            if yes then
              swap(model, first, other, has_had, job, step, h)
              may = false
            elseif left and may_pass(job1, step1, h1) then
              look_at_held(model, again)
              yes = true
              local m2, h2, of = fitting(model, left, rules(h[H.lane]).fair and tenant or '', aged)
              if m2 and h2[aged and H.ready or H.rank] < (aged and h[H.ready] or h[H.rank]) then   -- among those that pass it the order holds
                swap(model, m2, of, of and tonumber(redis.call('ZSCORE', key('heldby', model), of)), job, step, h)
                may = false
              end
            end
          end
          if not yes then
            may = false
            if diverted < MOST_DIVERTED and keeps_waiting(model, now) and divert(job, step, h, now, true) then
              diverted = diverted + 1
            else
              hold_back(model, job, step, h)
              look_at_held(model, again)
              if left then later(model) end   -- what is held and fits passes it
            end
            if limited[own] then let_in(own) end   -- its tenant's place, if it has one, is for another step
          end
        end
      end
    end
    if may then
      local at = stamp()
      h[H.state] = 'leased'
      h[H.attempt] = h[H.attempt] + 1
      h[H.token] = A.token
      h[H.started] = at
      if h[H.first] == 0 then h[H.first] = at end
      h[H.worker] = A.worker
      dispatch(job, h, aged)
      enter(h, job, step, now, over)
      redis.call('ZADD', P .. 'leases', int(now + A.lease_us), lease_of(job, step, h))
      event(job, at, 'started', step, A.worker)
      for _, name in ipairs(limits) do
        if not steady[name] and has_held(name, A.lane) then let_in(name) end
      end
      return claimed(job, step, h, facts, over)
    end
  end
end
return { tickets, 'more' }
