-- claim: the best ready step of a lane that may run, leased to a worker.
-- ARGV 1: lane, worker, token, again, models, agents, codes, sought, unsought, lease_us, retention_ms, budget_outcome
--   token: random, of this claim alone; again: 1 where the answer to the same claim was lost, 2 where that is all that is asked for
--   models, agents: what the worker can serve; nil: everything
--   codes: the code that it has of each agent; nil: whatever is asked for
--   sought, unsought: where its look at what others could not serve goes on ("": at the first), and over how many kinds, if not all
--   budget_outcome: the encoded error of a job that ends because its budget is used up
-- returns: {tickets, why, sought, unsought}: nothing may run here ("", or "others": what waits is for workers that serve more, "more":
--   there may be a step behind those that were looked at), else {tickets, job, step, attempt, kind, label, record, request,
--   version, ready, started, tries, µs in calls, basis, digest, first try, estimate, cost, over, code, fits, sought}
--   over: the tokens a minute that its model may have, where the step's estimate alone is more; else 0
--   code: that its agent ran with last; fits: 0 where another worker has that, and this one has not
-- include: waiting, order, limits, budgets, plan, sweep, mend
local function has(list, name)
  if not list then return true end
  for _, one in ipairs(list) do
    if one == name then return true end
  end
  return false
end

-- Whether this worker is to run a program that began with that code: it has the same, or nobody has any more. Whether what it has
-- will do then, the program's replay says.
local function fits(job, agent, code, need)
  return not A.codes or (code or '') == '' or A.codes[agent] == code or not somebody_has(need or need_of(job, nil, code))
end

local sought = A.sought -- the kind that `bring` has looked at last
local function agent_in(whose) return string.match(whose or '', '|(.*)$') or '' end
local function claimed(job, step, h, facts, over)
  return {
    tickets,
    job,
    step,
    h[H.attempt],
    h[H.kind],
    h[H.label],
    facts[2],
    facts[5] or '',
    number(facts[3]),
    int(h[H.ready]),
    int(h[H.started]),
    h[H.tries] or 0,
    facts[8] or '0',
    facts[9] or '',
    h[H.digest],
    int(h[H.first]),
    h[H.est],
    h[H.cost],
    over or 0,
    facts[10] or '',
    fits(job, agent_in(facts[6]), facts[10]) and 1 or 0,
    sought,
  }
end
local function facts_of(job, step) return redis.call('HMGET', key('job', job), 'st', 'rec', 'v', 'h' .. step, 'q' .. step, 'who', 'ob', 'us', 'dg', 'ch') end

-- The answer to a claim may be lost on its way, and the step be leased all the same: the caller asks again under the same token
-- and gets what it has, or would let it run out.
if A.again > 0 then -- rare: a look at all leases is cheaper than a book of claims
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
  if A.again == 2 then return { tickets, '', sought, 0 } end
end

-- Whether this worker can serve the step. Data agents need no code.
local function serves(job, h, facts)
  if h[H.kind] == 'llm' then return has(A.models, h[H.label]) end
  if string.sub(facts[9] or '', 1, 1) == 'd' then return true end
  local agent = agent_in(facts[6])
  return has(A.agents, agent) and fits(job, agent, facts[10])
end

local function serves_need(need)
  local kind, name = string.match(need, '^(%a+)/(.*)$')
  local agent, code = string.match(name or '', '^(.*)@(.*)$')
  if kind == 'code' and agent then return has(A.agents, agent) and fits(nil, agent, code, need) end
  return has(kind == 'model' and A.models or kind == 'agent' and A.agents or nil, name)
end

-- What others could not serve, and we can, goes by its rank among the rest: the first of each kind. Where there are many kinds (old
-- codes of many agents), each claim of a worker goes on behind the last that the one before has looked at, so it comes to all of them.
-- Gives whether there was one.
local bring, unsought
do -- (a chunk of Lua has 200 locals at the most)
  local MOST_SOUGHT, MOST_BROUGHT = 30, 10 -- kinds that are looked at by one claim, and steps
  local wanted, seen, brought, anew = key('wanted', A.lane), 0, 0, false
  unsought = A.unsought or redis.call('ZCARD', wanted) -- kinds, until all were looked at and nothing was found
  local function one(need, oldest)
    local top, _, tenant = first_held('?' .. need, oldest)
    if not top then return false end
    local job, step = split(top)
    local h = head(job, step)
    take_from('held', '?' .. need, top, tenant)
    if h and h[H.state] == 'ready' then place(job, step, h, true) end
    brought = brought + 1
    return true
  end
  local function look(need)
    if not serves_need(need) then return end
    if one(need, false) then
      if rules(A.lane).oldest > 0 then one(need, true) end -- perhaps it is the turn of the one that has waited longest
    else
      redis.call('ZREM', wanted, need)
      if string.sub(need, 1, 5) == 'code/' then redis.call('ZREM', key('holds', A.lane), '?' .. need) end -- each deploy has names of its own
    end
  end
  bring = function()
    local before = brought
    if anew then unsought = redis.call('ZCARD', wanted) end -- what this call has left to others is among them since
    while unsought > 0 and seen < MOST_SOUGHT and brought < MOST_BROUGHT do
      local most = math.min(unsought, MOST_SOUGHT - seen)
      local page = redis.call('ZRANGEBYLEX', wanted, sought == '' and '-' or '(' .. sought, '+', 'LIMIT', 0, most)
      for _, need in ipairs(page) do
        if brought >= MOST_BROUGHT then break end
        sought, seen, unsought = need, seen + 1, unsought - 1
        look(need)
      end
      if #page == 0 and sought == '' then
        unsought = 0
      elseif #page < most and sought == (page[#page] or sought) then
        sought = '' -- the first follows the last
      end
    end
    anew = brought > before
    if anew then unsought = redis.call('ZCARD', wanted) end
    return anew
  end
end
bring() -- before anything is taken: what only we can serve may be first of all

-- One that a limit held goes before the one at hand, which waits where it belongs; and no other before it in this call:
-- what is ranked under other rules has another order by age than by rank.
local swapped, next_top, next_aged = {}, nil, false
local function swap(name, first, part, standing, job, step, h)
  swapped[first] = true
  local job1, step1 = split(first)
  local h1 = head(job1, step1)
  take_from('held', name, first, part)
  if h1 and h1[H.state] == 'ready' and place(job1, step1, h1, false, standing, name) then next_top = first end
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
  local of = before and other or tenant -- the turn of the oldest is each tenant's own, and so is its order
  local by_age = before and turn_of_oldest(h[H.lane], other, 0) or (not before and aged)
  local top = redis.call('ZRANGE', key(by_age and 'heldold' or 'held', compartment(model, of)), 0, 0, 'WITHSCORES')
  if before then
    next_aged = by_age
    return top[1] or first, other, has_had
  end
  if top[1] and tonumber(top[2]) < mine then return top[1], tenant, had end
end

-- What this call knows of the step at hand, `s`: top (its name), job, step, h, facts, tenant, aged, limits (their names), limited (the
-- same as a set), steady (limits that a start leaves as many places of), over (the limit that it can never keep to), now.

-- Whether one more call may start, as `allowed`; what that says of the step at hand is noted with it.
local function may_start(s, name, est)
  local yes, again, left, steady, most = allowed(name, est, s.now)
  s.steady[name], s.over = steady, most
  return yes, again, not yes and left
end

-- Whether it may start as far as the limits go: what becomes of it (see `outcome`), and what that needs to know. The tenant's cap
-- is asked first: a model's room is for those that have a place of their own.
local function by_limits(s)
  local h, own, model = s.h, '@' .. s.tenant, s.h[H.label]
  local mine = s.aged and h[H.ready] or h[H.rank]
  if s.limited[own] then
    if not may_start(s, own, 0) then return 'capped', own end
    local first, rank, part = first_held(own, s.aged, A.lane)
    if first and not swapped[s.top] and rank < mine then return 'after', own, first, part end -- of one tenant the order is the lane's
  end
  if not s.limited[model] then return 'run' end
  local yes, again, left = may_start(s, model, bounded(h[H.est]))
  if not yes then return 'held', model, again, left end
  local first, other, standing
  if not swapped[s.top] then
    first, other, standing = goes_before(model, s.job, h, s.aged)
  end
  if not first then return 'run' end
  -- One that is held goes before it. Where that needs more room than there is, we wait with it …
  local job1, step1 = split(first)
  local h1 = head(job1, step1)
  yes, again, left = allowed(model, h1 and bounded(h1[H.est]) or 0, s.now)
  if yes then return 'after', model, first, other, standing end
  if not (left and may_pass(job1, step1, h1)) then return 'held', model, again, left end
  -- … but what fits passes it for a while; among those that do, the order holds.
  look_at_held(model, again)
  local m2, h2, of = fitting(model, left, rules(h[H.lane]).fair and s.tenant or '', s.aged)
  if m2 and h2[s.aged and H.ready or H.rank] < mine then return 'after', model, m2, of, of and tonumber(redis.call('ZSCORE', key('heldby', model), of)) end
  return 'run'
end

-- What becomes of the step at hand: the name of one of OUTCOMES, and what that needs to know.
local function outcome(s)
  local h, state = s.h, s.facts[1]
  if not h then return state == 'running' and 'unreadable' or 'gone' end
  if h[H.state] ~= 'ready' then return 'gone' end
  if state ~= 'running' then return s.step == TURN and 'gone' or 'behind' end
  if h[H.lane] ~= A.lane then return 'gone' end
  for _, name in ipairs(s.limits) do
    s.limited[name] = true
    redis.call('ZREM', in_set(h[H.lane], name), s.top) -- it is on its way: its place among those let in is free
  end
  if not serves(s.job, h, s.facts) then return 'unserved' end
  if h[H.kind] ~= 'llm' then return 'run' end
  local spent = over_budget(s.job, s.tenant)
  if spent then return 'spent', spent end
  return by_limits(s)
end

local others, diverted = false, 0
local MOST_ELSEWHERE = 20 -- that go to another model, by one claim; the reconciler sees to the rest

-- What each outcome does. The step is off the lane: what does not run is put where it waits, and where it had been let in its
-- place is for the next. Gives the answer to the caller, or nil: the next step is looked at.
local OUTCOMES = {
  -- Its job has ended or is not there, it is another's by now, or no step at all: what was taken off the lane had no business there.
  gone = function() end,

  -- Its job runs, and its head says nothing: `walk` sets the job aside.
  unreadable = function(s) left_marked[s.job] = true end,

  -- Its job was paused or ended, and it has not followed yet, as those of a wide job do one by one.
  behind = function(s)
    for _, name in ipairs(s.limits) do
      redis.call('ZREM', in_set(s.h[H.lane], name), s.top)
      later(name)
    end
    follow(s.job, s.step, s.h, s.facts[1])
  end,

  -- This worker lacks its model or its agent: it waits for one that has it, and keeps none behind it.
  unserved = function(s)
    others = leave_to_others(s.job, s.step, s.h, s.facts[10]) or others
    for _, name in ipairs(s.limits) do
      let_in(name)
    end -- its room is for another
  end,

  -- The budget of the job or of its tenant is used up.
  spent = function(s, whose)
    place(s.job, s.step, s.h, true) -- where pausing and ending look for it
    if s.facts[7] == 'fail' then
      end_job(s.job, 'failed', A.budget_outcome)
    else
      pause_job(s.job, 'budget of the ' .. whose .. ' used up')
    end
  end,

  -- Its tenant has as many calls in flight as it may.
  capped = function(s, own)
    hold_back(own, s.job, s.step, s.h)
    local model = s.h[H.label]
    if s.limited[model] then let_in(model) end -- it may have been let in: the room is for another
  end,

  -- Another that its model or tenant holds goes first: that one is next, and this one is on the lane again.
  after = function(s, name, first, part, standing) swap(name, first, part, standing, s.job, s.step, s.h) end,

  -- Its model has no room, or is on hold: it goes to the model's fallback where the hold is a long one, else it is held.
  held = function(s, model, again, left)
    if diverted < MOST_ELSEWHERE and keeps_waiting(model, s.now) and divert(s.job, s.step, s.h, s.now, true) then
      diverted = diverted + 1
    else
      hold_back(model, s.job, s.step, s.h)
      look_at_held(model, again)
      if left then later(model) end -- what is held and fits passes it
    end
    local own = '@' .. s.tenant
    if s.limited[own] then let_in(own) end -- its tenant's place, if it has one, is for another step
  end,

  run = function(s)
    local job, step, h, at = s.job, s.step, s.h, stamp()
    h[H.state] = 'leased'
    h[H.attempt] = h[H.attempt] + 1
    h[H.token] = A.token
    h[H.started] = at
    if h[H.first] == 0 then h[H.first] = at end
    h[H.worker] = A.worker
    dispatch(job, h, s.aged) -- charges the head, which `enter` writes
    enter(h, job, step, s.now, s.over)
    redis.call('ZADD', P .. 'leases', int(s.now + A.lease_us), lease_of(job, step, h))
    event(job, at, 'started', step, A.worker)
    for _, name in ipairs(s.limits) do
      -- (where nothing but calls in flight binds, it has taken a place and freed none)
      if not s.steady[name] and has_held(name, A.lane) then let_in(name) end
    end
    return claimed(job, step, h, s.facts, s.over)
  end,
}

local MOST_LOOKED = 40 -- steps set aside by this call, or with jobs that it pauses: one call never blocks Redis for long
local looked = 0

-- The step that goes next, taken from the lane: its name, and whether it is its turn as the oldest.
local function next_step()
  if next_top then -- one that a limit held, put on the lane by the step before
    local top = next_top
    local job, step = split(top)
    local h = head(job, step)
    next_top = nil
    if h and h[H.lane] == A.lane and take(job, step, h) then return top, next_aged end
  end
  local top, aged = take_best(A.lane)
  while not top and looked < MOST_LOOKED and bring() do -- the first may have been set aside, and not those behind
    looked = looked + 1
    top, aged = take_best(A.lane)
  end
  return top, aged
end

while looked < MOST_LOOKED and not exhausted() do
  looked = looked + 1
  let_in_freed() -- what the step before has freed: who is let in may be next
  local top, aged = next_step()
  if not top then return { tickets, others and 'others' or unsought > 0 and 'more' or '', sought, unsought } end
  next_aged = aged
  local job, step = split(top)
  if not job then
    job, step = top, ''
  end -- not one of ours: passed over
  local facts = facts_of(job, step)
  whos[job] = facts[6] or nil
  local h = unpacked(facts[4])
  local s = {
    top = top,
    job = job,
    step = step,
    h = h,
    facts = facts,
    tenant = tenant_in(facts[6]),
    aged = aged,
    limits = h and limits_of(job, h) or {},
    limited = {},
    steady = {},
    now = clock(),
  }
  local what, a, b, c, d = outcome(s)
  local answer = OUTCOMES[what](s, a, b, c, d)
  if answer then return answer end
end
return { tickets, 'more', sought, unsought }
