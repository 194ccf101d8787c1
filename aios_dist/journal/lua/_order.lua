-- Where ready steps wait, and who goes first.
--
-- lane:L     policy, oldest (every Nth dispatch to the one that has waited longest; 0: never), fair ("tenant" or
--            ""), file (what aios.toml last said), hand (1: set by hand), n|T dispatches of tenant T (n|: of all);
--            next, over, at, look: see _gather
-- ready:L    steps by rank; with fair share ready:L|T by tenant, and readyby:L the tenants that wait by counter
-- readyold:L the same steps by time of becoming ready, where the lane's rules look at it; readyold:L|T
-- stray:L    steps that were ranked under other rules than the lane has now, until the reconciler ranks them anew; behind
--            them what has come since, which goes by the new rules and not before them
-- astray:L   names of held steps of which the same is true; holds:L the models (and "@T") that have held its steps
-- share:L    virtual token counters of tenants; "!" the tenant that was last dispatched, "!m" the model of that step
-- lanes      the lanes that have rules, or that a reconciler looks at
-- rounds:L   the last round of each group, "!" the round of the step that was last dispatched; rounds:L|T
-- held:M     steps that a limit of model M (or of tenant T, "@T") holds, by rank; held:M|T, heldby:M with fair share,
--            heldold:M, heldold:M|T by age; of "@T" one set a lane, held:@T|L and heldby:@T. heldby:M has a scale of its own, below the lane's counters
--            by `up` of model:M, see lift. M may also be "?model/NAME", "?agent/NAME" or "?code/AGENT@CODE": steps that the worker
--            which met them cannot serve; wanted:L such needs of a lane's steps, serving the needs that workers serve, by until when
--            (a code that a worker has: "has/AGENT@CODE")
-- in:L|M     of a model M (or "@T") with limits: the steps that were let in to the lane, by rank; see kept_off
-- waits      how many steps stand in the tenants' sets of a shelf: "ready:L", "held:M"
-- used       "L|T": when a tenant was last dispatched on a shared lane (or first lifted there)
-- past:A     "µs in calls:calls" of the agent's last runs that succeeded

local SINCE = { ready = 0, submitted = 1, round = 2 }
local MONTH_MS = 30 * 86400000

-- Redis reads scores from text: this many digits give the same number back. (`int` would round ranks, and %g cut them.)
local function exact(n) return string.format('%.17g', n) end

local rules_of -- lanes that this verb has read
local whos -- of jobs that this verb has looked at: "tenant|agent"
local has_limits -- of names that this verb has asked for
each_call(function()
  rules_of, whos, has_limits = {}, {}, {}
end)

local function rules(lane)
  local r = rules_of[lane]
  if not r then
    local f = redis.call('HMGET', key('lane', lane), 'policy', 'oldest', 'fair', 'look')
    r = { policy = f[1], oldest = tonumber(f[2] or '0') or 0, fair = f[3] == 'tenant', look = f[4] }
    rules_of[lane] = r
  end
  return r
end

local function tenant_in(who) return who and string.match(who, '^[^|]*') or 'default' end
local function who(job)
  if not whos[job] then whos[job] = redis.call('HGET', key('job', job), 'who') or nil end
  return whos[job]
end
local function tenant_of(job) return tenant_in(who(job)) end
local function counter(lane, tenant)
  local now = redis.call('HGET', key('share', lane), tenant)
  return tonumber(now or '') and now or '0'
end

-- Whether its tenants are ordered on a scale of its own: what a model holds, not what only others can serve.
local function scaled(model) return not string.match(model, '^[?@]') end
local function scale_of(model) return number(redis.call('HGET', key('model', model), 'up')) end

-- The tenant that has been charged least of those who wait on a shelf (`ready` of a lane, `held` of a model),
-- and its counter (on the model's own scale, where it has one). Scores may be behind the counters: put right on the way.
local function least(shelf, name, lane)
  local by = key(shelf .. 'by', name)
  local own = shelf == 'held' and scaled(name)
  while true do
    local first = redis.call('ZRANGE', by, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local now = own and first[2] or counter(lane, first[1])
    if redis.call('EXISTS', key(shelf, name .. '|' .. first[1])) == 0 then
      redis.call('ZREM', by, first[1]) -- nothing waits
    elseif tonumber(now) <= tonumber(first[2]) then
      return first[1], tonumber(now)
    else
      redis.call('ZADD', by, now, first[1])
    end
  end
end

local function compartment(name, tenant) return tenant and name .. '|' .. tenant or name end

-- What a tenant begins with among those that a model holds: as much as the least of them.
local function among_held(model, lane, tenant)
  local own = tonumber(counter(lane, tenant)) - scale_of(model)
  local _, floor = least('held', model, lane)
  return exact(math.max(own, floor or own))
end

-- Before one is added and after one is taken away: what stops between leaves too many, which is a ticket too many.
local function count_on(shelf, name, by)
  local field = shelf .. ':' .. name
  local now = add('HINCRBY', P .. 'waits', field, by)
  if now == 0 then
    redis.call('HDEL', P .. 'waits', field)
  elseif now < 0 or (by == 1 and now == 1 and redis.call('EXISTS', key(shelf .. 'by', name)) == 1) then
    redis.call('HSET', P .. 'waits', field, counted_anew(shelf, name) + (by == 1 and 1 or 0))
  end
end

local function last_score(set) return tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2] or '') end
-- A score behind that one (and never the rank itself, by which those that are to be ranked are told).
local function behind(last, rank)
  local after = last + math.max(1, math.abs(last) * 2 ^ -51)
  return exact(after == rank and after + 1 or after)
end

-- `behind_all`: behind what stands there, whatever its rank.
local function put_on(shelf, name, m, h, tenant, behind_all)
  local lane, own = h[H.lane], compartment(name, tenant)
  if tenant then count_on(shelf, name, 1) end
  local last = behind_all and last_score(key(shelf, own))
  if redis.call('ZADD', key(shelf, own), last and last >= h[H.rank] and behind(last, h[H.rank]) or exact(h[H.rank]), m) == 0 and tenant then
    count_on(shelf, name, -1) -- it stood there already
  end
  if rules(lane).oldest > 0 then redis.call('ZADD', key(shelf .. 'old', own), int(h[H.ready]), m) end
  if not tenant then return end
  local by = key(shelf .. 'by', name)
  if shelf == 'held' and string.sub(name, 1, 1) == '@' then
    redis.call('ZADD', by, 0, tenant) -- (a lane)
  elseif shelf == 'ready' or not scaled(name) then
    redis.call('ZADD', by, counter(lane, tenant), tenant)
  elseif not redis.call('ZSCORE', by, tenant) then
    redis.call('ZADD', by, among_held(name, lane, tenant), tenant)
  end
end

local function take_from(shelf, name, m, tenant)
  local job = split(m)
  if job then mark(job) end
  local set = key(shelf, compartment(name, tenant))
  local was = redis.call('ZREM', set, m) == 1
  redis.call('ZREM', key(shelf .. 'old', compartment(name, tenant)), m) -- also one that is left over there
  if not was then return false end
  if tenant then count_on(shelf, name, -1) end
  if tenant and redis.call('EXISTS', set) == 0 then
    redis.call('ZREM', key(shelf .. 'by', name), tenant)
    if string.sub(name, 1, 1) == '@' and shelf == 'held' then redis.call('ZREM', key('holds', tenant), name) end -- (a lane)
  end
  return true
end

-- … wherever on the shelf it is: rules may have changed since it was put there.
local function take_off(shelf, name, m, tenant) return take_from(shelf, name, m, nil) or take_from(shelf, name, m, tenant) end

local function outdated(h)
  local policy = rules(h[H.lane]).policy
  return policy and h[H.policy] ~= '' and h[H.policy] ~= policy
end

-- A tenant that begins to compete (new, or back from a cap, a limit or a hold) has saved nothing up: it begins with the
-- least counter of the others that compete: of those with ready steps on the lane, else of those that its model holds too,
-- else with that of the tenant last dispatched (also where that worked with another model meanwhile).
-- `held`: how it stood among those that its model held. They have all been held back alike: what it is lifted by goes to
-- the model's scale, so that the others are lifted by as much when their turn comes, and keep their order.
local function lift(lane, tenant, model, held)
  if redis.call('ZSCORE', key('readyby', lane), tenant) then return end -- it competes already
  local f = redis.call('HMGET', key('share', lane), tenant, '!', '!m')
  local had = number(f[1])
  local scale = held and scale_of(model)
  local now = held and math.max(had, held + scale) or had
  local other, floor = least('ready', lane, lane)
  if not other then
    local first = scaled(model) and redis.call('ZRANGE', key('heldby', model), 0, 1, 'WITHSCORES') or {}
    local at = first[1] == tenant and 4 or 2
    if first[at] and f[3] == model then
      floor = tonumber(first[at]) + (scale or scale_of(model))
    else
      floor = number(f[2] and redis.call('HGET', key('share', lane), f[2]))
    end
  end
  if floor > now then
    if held then redis.call('HSET', key('model', model), 'up', exact(scale + floor - now)) end
    now = floor
  end
  if now > had then
    redis.call('HSET', key('share', lane), tenant, exact(now))
    redis.call('ZADD', P .. 'used', 'NX', int(clock()), lane .. '|' .. tenant) -- also of one that never gets to run
  end
end

-- The names by which limits are asked for a step: of its tenant's cap and of its model, where there are such limits.
local function limits_of(job, h)
  if h[H.kind] ~= 'llm' then return {} end
  local own, model, names = '@' .. tenant_of(job), h[H.label], {} -- (the cap first: it is asked first)
  for _, name in ipairs({ own, model }) do
    if has_limits[name] == nil then has_limits[name] = redis.call('ZSCORE', P .. 'limited', name) ~= false end
    if has_limits[name] then names[#names + 1] = name end
  end
  return names
end
local function in_set(lane, name) return key('in', lane .. '|' .. name) end
local function not_in(job, m, h)
  for _, name in ipairs(limits_of(job, h)) do
    redis.call('ZREM', in_set(h[H.lane], name), m)
  end
end

local kept_off -- _limits

-- A step waits on its lane, with the rank that it has; or where a limit holds it back. Gives whether it stands on the lane.
-- `kept`: it has waited all along, elsewhere; `held`: see lift; `past`: what it was held by, and is not any more;
-- `ranked`: it has stood among the strays.
local function place(job, step, h, kept, held, past, ranked)
  mark(job)
  local lane, m, limits = h[H.lane], member(job, step), limits_of(job, h)
  local late = past and (redis.call('ZREM', key('astray', lane), m) == 1 or rules(lane).look)
  local new = not kept and not ranked and (not past or late) -- since the rules changed
  if #limits > 0 and kept_off(limits, job, step, h, past, kept, new) then return false end
  -- While there are strays, what comes under the new rules queues behind them: its rank and theirs do not compare.
  local last = new and not outdated(h) and last_score(key('stray', lane))
  if outdated(h) or last then
    redis.call('ZADD', key('stray', lane), last and behind(last, h[H.rank]) or exact(h[H.rank]), m)
  else
    local tenant = rules(lane).fair and tenant_of(job) or nil
    if tenant and not kept then lift(lane, tenant, h[H.label], held) end
    put_on('ready', lane, m, h, tenant)
  end
  for _, name in ipairs(limits) do
    redis.call('ZADD', in_set(lane, name), exact(h[H.rank]), m)
  end
  return true
end

-- … and no longer. Gives whether it did.
local function take(job, step, h)
  local m = member(job, step)
  mark(job)
  not_in(job, m, h)
  if redis.call('ZREM', key('stray', h[H.lane]), m) == 1 then return true end
  return take_from('ready', h[H.lane], m, rules(h[H.lane]).fair and tenant_of(job) or nil)
end

-- Whether the dispatch after `ahead` more is the turn of the step that has waited longest (of a tenant's).
local function turn_of_oldest(lane, tenant, ahead)
  local every = rules(lane).oldest
  if every == 0 then return false end
  return (number(redis.call('HGET', key('lane', lane), 'n|' .. (tenant or ''))) + ahead + 1) % every == 0
end

-- The step that runs next on a lane, taken from it: its name, and whether it was its turn as the oldest.
local function take_best(lane)
  local tenant = rules(lane).fair and least('ready', lane, lane) or nil
  local own, aged = compartment(lane, tenant), turn_of_oldest(lane, tenant, 0)
  local top = redis.call('ZRANGE', key(aged and 'readyold' or 'ready', own), 0, 0)[1]
  if not top then -- those that were ranked under other rules: nobody waits for the reconciler
    top = redis.call('ZRANGE', key('stray', lane), 0, 0)[1]
    if top then
      local job = split(top)
      if job then mark(job) end
      redis.call('ZREM', key('stray', lane), top)
    end
    return top, aged -- judged among the held as those on the lane are: else one would fetch what the other sends back
  end
  take_from('ready', lane, top, tenant)
  return top, aged
end

-- What a worker must have to serve a step: "model/NAME", "agent/NAME", or of a job that has begun "code/AGENT@CODE". `code`: of the job,
-- where no step is meant.
local function need_of(job, h, code)
  if h and h[H.kind] == 'llm' then return 'model/' .. h[H.label] end
  local agent = string.match(who(job) or '', '|(.*)$') or ''
  code = code or (h and h[H.code]) or ''
  return code ~= '' and 'code/' .. agent .. '@' .. code or 'agent/' .. agent
end

-- What the shelf may be called where it waits for such a worker: a release before codes leaves it to others under its agent alone.
local function needs_of(job, h) return { need_of(job, h), (h[H.code] or '') ~= '' and need_of(job, nil, '') or nil } end

local function weight_of(tenant)
  local weight = number(redis.call('HGET', key('tenant', tenant), 'w'))
  return weight > 0 and weight or 1
end

-- What holds steps of a lane and orders tenants: all but their own caps ("@T"), of which there may be as many as tenants.
local function holders(lane)
  local names = {}
  for _, part in ipairs({ { '-', '(@' }, { '[A', '+' } }) do
    for _, model in ipairs(redis.call('ZRANGEBYLEX', key('holds', lane), part[1], part[2])) do
      names[#names + 1] = model
    end
  end
  return names
end

local settle, dispatch
do -- (a chunk of Lua has 200 locals at the most)
  -- Fair share: what a tenant has had of a lane, in tokens by their cost, over its weight.
  local function charge(h, tenant, amount)
    local lane = h[H.lane]
    local by = exact(amount / weight_of(tenant))
    local now = add('HINCRBYFLOAT', key('share', lane), tenant, by)
    redis.call('ZADD', key('readyby', lane), 'XX', now, tenant)
    if redis.call('EXISTS', key('holds', lane)) == 0 then return end
    for _, model in ipairs(holders(lane)) do
      if scaled(model) then
        redis.call('ZADD', key('heldby', model), 'XX', 'INCR', by, tenant)
      elseif amount < 0 then
        redis.call('ZADD', key('heldby', model), 'XX', now, tenant)
      end -- what is behind is put right on the way
    end
  end

  -- A dispatched step has taken so much, which is never nothing: among equals the name would decide for ever.
  -- nil: nobody knows, what was charged stands.
  settle = function(job, h, taken)
    local charged = h[H.charged] or 0
    if charged == 0 then return end
    h[H.charged] = 0
    taken = taken and math.max(1, taken)
    if taken and taken ~= charged then charge(h, tenant_of(job), taken - charged) end
  end

  -- The step is dispatched: rounds, turns of the oldest and shares count on.
  dispatch = function(job, h, aged)
    local lane, r = h[H.lane], rules(h[H.lane])
    local tenant = r.fair and tenant_of(job) or nil
    if r.oldest > 0 then add('HINCRBY', key('lane', lane), 'n|' .. (tenant or ''), 1) end
    if h[H.since] == SINCE.round and not aged then
      local k = key('rounds', compartment(lane, tenant))
      -- A group that comes late begins in this round, not in all that it has missed. It never goes back: one of an older round may be left.
      if h[H.rank] > number(redis.call('HGET', k, '!')) then
        redis.call('HSET', k, '!', int(h[H.rank]))
        redis.call('PEXPIRE', k, MONTH_MS)
      end
    end
    if tenant then
      h[H.charged] = math.max(1, h[H.cost] or 0)
      charge(h, tenant, h[H.charged])
      redis.call('HSET', key('share', lane), '!', tenant, '!m', h[H.label])
      redis.call('ZADD', P .. 'used', int(clock()), lane .. '|' .. tenant)
    end
  end
end

-- The number that the step's rank comes to: what its policy said, or its place in an agent-first plan.
-- (aios_dist.policies: Rank.value and agent_first, which a test holds against this.) Rounds are no times: on a lane
-- that goes by them, a plan's place says nothing.
local function rank_of(job, h)
  local f = redis.call('HMGET', key('job', job), 'pp', 'pr', 't0', 'pl', 'ta')
  if f[1] and h[H.kind] == 'llm' and h[H.since] ~= SINCE.round then
    local n, p, places, jobs = string.match(f[1], '^(%d+)|(%d+)|(%d+)|(%d+)$')
    local plan = key('plan', f[4])
    local admitted = redis.call('HGET', plan, 'a' .. n)
    if not admitted then
      admitted = int(h[H.ready])
      redis.call('HSET', plan, 'a' .. n, admitted)
    end
    -- Each place has a span of its own behind the node's first moment; its steps stand in it in their order, and the last ones share
    -- its end. The span grows with the plan, but is no longer than a second: so plans that began a second apart never mix.
    local nth, window = redis.call('HINCRBY', plan, 's' .. n .. '.' .. p, 1) - 1, math.min(1e6, 32 * jobs)
    local steps = math.max(1, math.floor(4 * window / places))
    return tonumber(admitted) + window * (p + math.min(nth, steps - 1) / steps) / places
  end
  local since = h[H.ready]
  if h[H.since] == SINCE.submitted then
    since = number(f[5] or f[3])
  elseif h[H.since] == SINCE.round then
    local k = key('rounds', compartment(h[H.lane], rules(h[H.lane]).fair and tenant_of(job) or nil))
    local last = redis.call('HMGET', k, '!', h[H.group])
    since = math.max(number(last[1]), number(last[2] or '-1') + 1)
    redis.call('HSET', k, h[H.group], int(since))
    redis.call('PEXPIRE', k, MONTH_MS)
  end
  return h[H.base] + since - h[H.level] * number(f[2])
end

-- A step goes to another lane and model. Its round is decided anew there; any other rank says as much as it did: a time,
-- or its place in a plan. Under rules that are not its own it waits by its time until it is ranked. Its caller places
-- it (or sets its time) without `kept`, so that its share is decided anew too.
local function change_lane(job, h, lane, label)
  local moved = lane ~= h[H.lane]
  h[H.lane], h[H.label] = lane, label
  if not moved or h[H.since] ~= SINCE.round then return moved end
  h[H.rank] = outdated(h) and h[H.ready] or rank_of(job, h)
  return moved
end

-- The step waits on its lane from now on; its rank is decided here. `parked`: not yet, its job is paused.
local function make_ready(job, step, h, parked)
  local at = stamp()
  h[H.ready] = at
  h[H.rank] = rank_of(job, h)
  h[H.state] = parked and 'parked' or 'ready'
  put(job, step, h)
  event(job, at, 'ready', step, h[H.label]) -- first: its model may keep it waiting, and it goes to another at once
  if not parked and place(job, step, h) then ticket(h[H.lane], job, step) end
end

-- A step that was ready before waits again, with the rank that it had. `kept`: its job has not been idle meanwhile.
-- `what`: what is told of it, where that is not that it was released.
local function back(job, step, h, at, why, kept, what)
  h[H.state] = 'ready'
  put(job, step, h)
  if place(job, step, h, kept) then ticket(h[H.lane], job, step) end
  event(job, at, what or 'released', step, why)
end

-- The job's program has to be run; not by us. It runs as a step on the lane `turns`, once at a time.
local function need_turn(job)
  if redis.call('HGET', key('job', job), 'st') == 'paused' then
    redis.call('HSET', key('job', job), 'wake', 1)
    return
  end
  local before = head(job, TURN)
  if before and (before[H.state] == 'ready' or before[H.state] == 'leased') then return end
  local h = new_head('turn', 'turns', 'idle', 'turn')
  if before then h[H.attempt] = before[H.attempt] end
  make_ready(job, TURN, h)
  return true -- there was none
end

-- A run that succeeded becomes part of its agent's past.
local function remember(job)
  local MOST_PAST = 200
  local f = redis.call('HMGET', key('job', job), 'who', 'us', 'uc', 'from')
  if not f[1] or f[4] or tonumber(f[3] or '0') <= 0 then return end -- a fork has had only a part of its service
  local k = key('past', string.match(f[1], '|(.*)$'))
  redis.call('LPUSH', k, (f[2] or '0') .. ':' .. f[3])
  redis.call('LTRIM', k, 0, MOST_PAST - 1)
  redis.call('PEXPIRE', k, MONTH_MS)
end
