-- Where ready steps wait, and who goes first: shared by every verb, behind _lib.
--
-- lane:L     policy, oldest (every Nth dispatch to the one that has waited longest; 0: never), fair ("tenant" or
--            ""), file (what aios.toml last said), hand (1: set by hand), n|T dispatches of tenant T (n|: of all)
-- ready:L    steps by rank; with fair share ready:L|T by tenant, and readyby:L the tenants that wait by counter
-- readyold:L the same steps by time of becoming ready, where the lane's rules look at it; readyold:L|T
-- stray:L    steps that were ranked under other rules than the lane has now, until the reconciler ranks them anew
-- astray:L   names of held steps of which the same is true; holds:L the models (and "@T") that have held its steps
-- share:L    virtual token counters of tenants; "!" the tenant that was last dispatched
-- rounds:L   the last round of each group, "!" the round of the step that was last dispatched; rounds:L|T
-- held:M     steps that a limit of model M (or of tenant T, "@T") holds, by rank; held:M|T, heldby:M with fair share,
--            heldold:M, heldold:M|T by age. M may also be "?model/NAME" or "?agent/NAME": steps that the worker
--            which met them cannot serve; wanted:L such needs of a lane's steps, serving the needs that workers serve, by until when
-- past:A     "µs in calls:calls" of the agent's last runs that succeeded

local SINCE = { ready = 0, submitted = 1, round = 2 }
local MOST_PAST, MONTH_MS = 200, 30 * 86400000

local function exact(n) return string.format('%.17g', n) end

local known = {}
local function rules(lane)
  local r = known[lane]
  if not r then
    local f = redis.call('HMGET', key('lane', lane), 'policy', 'oldest', 'fair')
    r = { policy = f[1], oldest = tonumber(f[2] or '0') or 0, fair = f[3] == 'tenant' }
    known[lane] = r
  end
  return r
end

local function tenant_in(who) return who and string.match(who, '^[^|]*') or 'default' end
local whos = {}   -- of jobs that this verb has looked at: "tenant|agent"
local function who(job)
  if not whos[job] then whos[job] = redis.call('HGET', key('job', job), 'who') or nil end
  return whos[job]
end
local function tenant_of(job) return tenant_in(who(job)) end
local function counter(lane, tenant)
  local now = redis.call('HGET', key('share', lane), tenant)
  return tonumber(now or '') and now or '0'
end

-- The tenant that has been charged least of those who wait on a shelf (`ready` of a lane, `held` of a model),
-- and its counter. Scores may be behind the counters: put right on the way.
local function least(shelf, name, lane)
  local by = key(shelf .. 'by', name)
  while true do
    local first = redis.call('ZRANGE', by, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local now = counter(lane, first[1])
    if redis.call('EXISTS', key(shelf, name .. '|' .. first[1])) == 0 then redis.call('ZREM', by, first[1])   -- nothing waits
    elseif tonumber(now) <= tonumber(first[2]) then return first[1], tonumber(now)
    else redis.call('ZADD', by, now, first[1]) end
  end
end

local function compartment(name, tenant) return tenant and name .. '|' .. tenant or name end

local function put_on(shelf, name, m, h, tenant)
  local lane, own = h[H.lane], compartment(name, tenant)
  redis.call('ZADD', key(shelf, own), exact(h[H.rank]), m)
  if rules(lane).oldest > 0 then redis.call('ZADD', key(shelf .. 'old', own), int(h[H.ready]), m) end
  if tenant then redis.call('ZADD', key(shelf .. 'by', name), counter(lane, tenant), tenant) end
end

local function take_from(shelf, name, m, tenant)
  local job = split(m)
  if job then mark(job) end
  local set = key(shelf, compartment(name, tenant))
  local was = redis.call('ZREM', set, m) == 1
  redis.call('ZREM', key(shelf .. 'old', compartment(name, tenant)), m)   -- also one that is left over there
  if not was then return false end
  if tenant and redis.call('EXISTS', set) == 0 then redis.call('ZREM', key(shelf .. 'by', name), tenant) end
  return true
end

-- … wherever on the shelf it is: rules may have changed since it was put there.
local function take_off(shelf, name, m, tenant)
  return take_from(shelf, name, m, nil) or take_from(shelf, name, m, tenant)
end

local function outdated(h)
  local policy = rules(h[H.lane]).policy
  return policy and h[H.policy] ~= '' and h[H.policy] ~= policy
end

-- A tenant that nothing waited for begins with the least counter of those who wait: it has saved nothing up.
local function lift(lane, tenant, model)
  if redis.call('ZSCORE', key('readyby', lane), tenant) or redis.call('ZSCORE', key('heldby', model), tenant) then
    return
  end
  local other, floor = least('ready', lane, lane)
  floor = other and floor or tonumber(counter(lane, redis.call('HGET', key('share', lane), '!') or ''))
  if tonumber(counter(lane, tenant)) < floor then redis.call('HSET', key('share', lane), tenant, exact(floor)) end
end

-- A step waits on its lane, with the rank that it has. `kept`: it has waited all along, elsewhere.
local function place(job, step, h, kept)
  mark(job)
  local lane, m = h[H.lane], member(job, step)
  if outdated(h) then
    redis.call('ZADD', key('stray', lane), exact(h[H.rank]), m)
    return
  end
  local tenant = rules(lane).fair and tenant_of(job) or nil
  if tenant and not kept then lift(lane, tenant, h[H.label]) end
  put_on('ready', lane, m, h, tenant)
end

-- … and no longer. Gives whether it did.
local function take(job, step, h)
  local m = member(job, step)
  mark(job)
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
  if not top then   -- those that were ranked under other rules: nobody waits for the reconciler
    top = redis.call('ZRANGE', key('stray', lane), 0, 0)[1]
    if top then
      local job = split(top)
      if job then mark(job) end
      redis.call('ZREM', key('stray', lane), top)
    end
    return top, aged   -- judged among the held as those on the lane are: else one would fetch what the other sends back
  end
  take_from('ready', lane, top, tenant)
  return top, aged
end

-- What a worker must have to serve a step: "model/NAME" or "agent/NAME".
local function need_of(job, h)
  if h[H.kind] == 'llm' then return 'model/' .. h[H.label] end
  return 'agent/' .. (string.match(who(job) or '', '|(.*)$') or '')
end

local function in_shelf(name)
  local count = redis.call('ZCARD', key('held', name))
  for _, tenant in ipairs(redis.call('ZRANGE', key('heldby', name), 0, -1)) do
    count = count + redis.call('ZCARD', key('held', name .. '|' .. tenant))
  end
  return count
end

-- Whether a worker that lives serves this.
local function somebody_serves(need)
  local till = redis.call('ZSCORE', P .. 'serving', need)
  return till and tonumber(till) > clock()
end

-- How many steps wait on a lane, and how many of them by tenant (a flat list). Those that only other workers can
-- serve are counted among them; `served`: where there are such workers.
local function waiting_on(lane, served)
  local count = redis.call('ZCARD', key('ready', lane)) + redis.call('ZCARD', key('stray', lane))
  for _, need in ipairs(redis.call('ZRANGE', key('wanted', lane), 0, -1)) do
    if not served or somebody_serves(need) then count = count + in_shelf('?' .. need) end
  end
  local by = {}
  for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', lane), 0, -1)) do
    local own = redis.call('ZCARD', key('ready', lane .. '|' .. tenant))
    count = count + own
    by[#by + 1], by[#by + 2] = tenant, own
  end
  return count, by
end

-- Fair share: what a tenant has had of a lane, in tokens by their cost, over its weight.
local function charge(h, tenant, amount)
  local lane = h[H.lane]
  local weight = number(redis.call('HGET', key('tenant', tenant), 'w'))
  local now = add('HINCRBYFLOAT', key('share', lane), tenant, exact(amount / (weight > 0 and weight or 1)))
  redis.call('ZADD', key('readyby', lane), 'XX', now, tenant)
  redis.call('ZADD', key('heldby', h[H.label]), 'XX', now, tenant)
  if amount < 0 and redis.call('EXISTS', key('holds', lane)) == 1 then   -- what is behind its counter is put right on the way, what is ahead of it only here
    for _, part in ipairs({ { '-', '(@' }, { '[A', '+' } }) do   -- but for "@T", which has no tenants
      for _, model in ipairs(redis.call('ZRANGEBYLEX', key('holds', lane), part[1], part[2])) do
        redis.call('ZADD', key('heldby', model), 'XX', now, tenant)
      end
    end
  end
end

-- A dispatched step has taken so much, which is never nothing: among equals the name would decide for ever.
-- nil: nobody knows, what was charged stands.
local function settle(job, h, taken)
  local charged = h[H.charged] or 0
  if charged == 0 then return end
  h[H.charged] = 0
  taken = taken and math.max(1, taken)
  if taken and taken ~= charged then charge(h, tenant_of(job), taken - charged) end
end

-- The step is dispatched: rounds, turns of the oldest and shares count on.
local function dispatch(job, h, aged)
  local lane, r = h[H.lane], rules(h[H.lane])
  local tenant = r.fair and tenant_of(job) or nil
  if r.oldest > 0 then add('HINCRBY', key('lane', lane), 'n|' .. (tenant or ''), 1) end
  if h[H.since] == SINCE.round and not aged then
    local k = key('rounds', compartment(lane, tenant))
    if h[H.rank] > number(redis.call('HGET', k, '!')) then
      redis.call('HSET', k, '!', int(h[H.rank]))
      redis.call('PEXPIRE', k, MONTH_MS)
    end
  end
  if tenant then
    h[H.charged] = math.max(1, h[H.cost] or 0)
    charge(h, tenant, h[H.charged])
    redis.call('HSET', key('share', lane), '!', tenant)
  end
end

-- The number that the step's rank comes to: what its policy said, or its place in an agent-first plan.
-- (aios_dist.policies: Rank.value and agent_first, which a test holds against this.) Rounds are no times: on a lane
-- that goes by them, a plan's place says nothing.
local function rank_of(job, h)
  local f = redis.call('HMGET', key('job', job), 'pp', 'pr', 't0', 'pl')
  if f[1] and h[H.kind] == 'llm' and h[H.since] ~= SINCE.round then
    local n, p, places, jobs = string.match(f[1], '^(%d+)|(%d+)|(%d+)|(%d+)$')
    local plan = key('plan', f[4])
    local admitted = redis.call('HGET', plan, 'a' .. n)
    if not admitted then
      admitted = int(h[H.ready])
      redis.call('HSET', plan, 'a' .. n, admitted)
    end
    local nth, window = redis.call('HINCRBY', plan, 's' .. n .. '.' .. p, 1) - 1, math.min(1e6, 32 * jobs)
    local steps = math.max(1, math.floor(4 * window / places))
    return tonumber(admitted) + window * (p + math.min(nth, steps - 1) / steps) / places
  end
  local since = h[H.ready]
  if h[H.since] == SINCE.submitted then since = number(f[3])
  elseif h[H.since] == SINCE.round then
    local k = key('rounds', compartment(h[H.lane], rules(h[H.lane]).fair and tenant_of(job) or nil))
    local last = redis.call('HMGET', k, '!', h[H.group])
    since = math.max(number(last[1]), number(last[2] or '-1') + 1)
    redis.call('HSET', k, h[H.group], int(since))
    redis.call('PEXPIRE', k, MONTH_MS)
  end
  return h[H.base] + since - h[H.level] * number(f[2])
end

-- A step goes to another lane and model; it is on no shelf. Gives whether the lane is another.
local function change_lane(_, _, h, lane, label)
  local moved = lane ~= h[H.lane]
  h[H.lane], h[H.label] = lane, label
  return moved
end

-- The step waits on its lane from now on; its rank is decided here.
local function make_ready(job, step, h)
  local at = stamp()
  h[H.ready] = at
  h[H.rank] = rank_of(job, h)
  h[H.state] = 'ready'
  put(job, step, h)
  place(job, step, h)
  event(job, at, 'ready', step, h[H.label])
  ticket(h[H.lane], job, step)
end

-- A step that was ready before waits again, with the rank that it had. `kept`: its job has not been idle meanwhile.
local function back(job, step, h, at, why, kept)
  h[H.state] = 'ready'
  put(job, step, h)
  place(job, step, h, kept)
  event(job, at, 'released', step, why)
  ticket(h[H.lane], job, step)
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
end

-- A run that succeeded becomes part of its agent's past.
local function remember(job)
  local f = redis.call('HMGET', key('job', job), 'who', 'us', 'uc', 'from')
  if not f[1] or f[4] or tonumber(f[3] or '0') <= 0 then return end   -- a fork has had only a part of its service
  local k = key('past', string.match(f[1], '|(.*)$'))
  redis.call('LPUSH', k, (f[2] or '0') .. ':' .. f[3])
  redis.call('LTRIM', k, 0, MOST_PAST - 1)
  redis.call('PEXPIRE', k, MONTH_MS)
end
