-- Where ready steps wait, and who goes first: shared by every verb, behind _lib.
--
-- lane:L     policy, oldest (every Nth dispatch to the one that has waited longest; 0: never), fair ("tenant" or
--            ""), file (what aios.toml last said), hand (1: set by hand), n|T dispatches of tenant T (n|: of all)
-- ready:L    steps by rank; with fair share ready:L|T by tenant, and readyby:L the tenants that wait by counter
-- oldest:L   the same steps by time of becoming ready, where the lane's rules look at it; oldest:L|T
-- stray:L    steps that were ranked under other rules than the lane has now, until the reconciler ranks them anew
-- share:L    virtual token counters of tenants; "!" the counter of the tenant that was last dispatched
-- rounds:L   the last round of each group, "!" the round of the step that was last dispatched; rounds:L|T
-- held:M     steps that a limit of model M (or of tenant T, "@T") holds, by rank; held:M|T, heldby:M with fair share
-- past:A     "µs in calls:calls" of the agent's last runs that succeeded

local SINCE = { ready = 0, submitted = 1, round = 2 }
local MOST_PAST, PAST_MS = 200, 30 * 86400000

local function exact(n) return string.format('%.17g', n) end

local known = {}
local function rules(lane)
  local r = known[lane]
  if not r then
    local f = redis.call('HMGET', key('lane', lane), 'policy', 'oldest', 'fair')
    r = { policy = f[1], oldest = tonumber(f[2] or '0'), fair = f[3] == 'tenant' }
    known[lane] = r
  end
  return r
end

local function tenant_of(job) return redis.call('HGET', key('job', job), 'tn') or 'default' end
local function counter(lane, tenant) return redis.call('HGET', key('share', lane), tenant) or '0' end

-- The tenant that has been charged least of those who wait on a shelf (`ready` of a lane, `held` of a model),
-- and its counter. Scores may be behind the counters, which only grow while a tenant waits: put right on the way.
local function least(shelf, name, lane)
  local by = key(shelf .. 'by', name)
  while true do
    local first = redis.call('ZRANGE', by, 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local now = counter(lane, first[1])
    if tonumber(now) <= tonumber(first[2]) then return first[1], tonumber(now) end
    redis.call('ZADD', by, now, first[1])
  end
end

local function put_on(shelf, name, lane, m, rank, tenant)
  if tenant then
    redis.call('ZADD', key(shelf, name .. '|' .. tenant), exact(rank), m)
    redis.call('ZADD', key(shelf .. 'by', name), counter(lane, tenant), tenant)
  else
    redis.call('ZADD', key(shelf, name), exact(rank), m)
  end
end

local function take_off(shelf, name, m, tenant)
  if redis.call('ZREM', key(shelf, name), m) == 1 then return true end
  if not tenant then return false end
  local set = key(shelf, name .. '|' .. tenant)
  if redis.call('ZREM', set, m) == 0 then return false end
  if redis.call('EXISTS', set) == 0 then redis.call('ZREM', key(shelf .. 'by', name), tenant) end
  return true
end

-- A step waits on its lane, with the rank that it has.
local function place(job, step, h)
  local lane, m = h[H.lane], member(job, step)
  local r = rules(lane)
  if r.policy and h[H.policy] ~= '' and h[H.policy] ~= r.policy then
    redis.call('ZADD', key('stray', lane), exact(h[H.rank]), m)
    return
  end
  local tenant = r.fair and tenant_of(job) or nil
  put_on('ready', lane, lane, m, h[H.rank], tenant)
  if r.oldest > 0 then
    redis.call('ZADD', key('oldest', tenant and lane .. '|' .. tenant or lane), int(h[H.ready]), m)
  end
end

-- … and no longer. Gives whether it did.
local function take(job, step, h)
  local lane, m = h[H.lane], member(job, step)
  local r = rules(lane)
  if redis.call('ZREM', key('stray', lane), m) == 1 then return true end
  local tenant = r.fair and tenant_of(job) or nil
  if r.oldest > 0 then redis.call('ZREM', key('oldest', tenant and lane .. '|' .. tenant or lane), m) end
  return take_off('ready', lane, m, tenant)
end

-- The step that runs next on a lane, taken from it: its name, and whether it was its turn as the oldest.
local function take_best(lane)
  local r, tenant = rules(lane), nil
  if r.fair then tenant = least('ready', lane, lane) end
  local g = tenant and lane .. '|' .. tenant or lane
  local first, second, aged = 'ready', 'oldest', false
  if r.oldest > 0 then
    local nth = tonumber(redis.call('HGET', key('lane', lane), 'n|' .. (tenant or '')) or '0')
    if (nth + 1) % r.oldest == 0 then first, second, aged = second, first, true end
  end
  local top = redis.call('ZPOPMIN', key(first, g))
  if #top == 0 then   -- those that were ranked under other rules: nobody waits for the reconciler
    top = redis.call('ZPOPMIN', key('stray', lane))
    return top[1], false
  end
  if r.oldest > 0 then redis.call('ZREM', key(second, g), top[1]) end
  if tenant and redis.call('EXISTS', key('ready', g)) == 0 then redis.call('ZREM', key('readyby', lane), tenant) end
  return top[1], aged
end

-- How many steps wait on a lane, and how many of them by tenant (a flat list).
local function waiting_on(lane)
  local count = redis.call('ZCARD', key('ready', lane)) + redis.call('ZCARD', key('stray', lane))
  local by = {}
  for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', lane), 0, -1)) do
    local own = redis.call('ZCARD', key('ready', lane .. '|' .. tenant))
    count = count + own
    by[#by + 1], by[#by + 2] = tenant, own
  end
  return count, by
end

-- Fair share: what a tenant has had of a lane, in tokens by their cost, over its weight.
local function charge(lane, tenant, amount)
  local weight = tonumber(redis.call('HGET', key('tenant', tenant), 'w') or '1')
  local now = redis.call('HINCRBYFLOAT', key('share', lane), tenant, exact(amount / weight))
  redis.call('ZADD', key('readyby', lane), 'XX', now, tenant)
  return now
end

-- A tenant that nothing waited for begins with the least counter of those who wait: it has saved nothing up.
local function lift(lane, tenant, model)
  if redis.call('ZSCORE', key('readyby', lane), tenant) or redis.call('ZSCORE', key('heldby', model), tenant) then
    return
  end
  local other, floor = least('ready', lane, lane)
  floor = other and floor or tonumber(counter(lane, '!'))
  if tonumber(counter(lane, tenant)) < floor then redis.call('HSET', key('share', lane), tenant, exact(floor)) end
end

-- A dispatched step has taken so much; nil: nobody knows, what was charged stands.
local function settle(job, h, taken)
  local charged = h[H.charged] or 0
  if charged == 0 then return end
  h[H.charged] = 0
  if taken and taken ~= charged then charge(h[H.lane], tenant_of(job), taken - charged) end
end

-- The step is dispatched: rounds, turns of the oldest and shares count on.
local function dispatch(job, h)
  local lane, r = h[H.lane], rules(h[H.lane])
  local tenant = r.fair and tenant_of(job) or nil
  if r.oldest > 0 then redis.call('HINCRBY', key('lane', lane), 'n|' .. (tenant or ''), 1) end
  if h[H.since] == SINCE.round then
    local k = key('rounds', tenant and lane .. '|' .. tenant or lane)
    if h[H.rank] > tonumber(redis.call('HGET', k, '!') or '0') then redis.call('HSET', k, '!', int(h[H.rank])) end
  end
  if tenant then
    h[H.charged] = math.max(1, h[H.cost] or 0)
    redis.call('HSET', key('share', lane), '!', charge(lane, tenant, h[H.charged]))
  end
end

-- The number that the step's rank comes to: what its policy said, or its place in an agent-first plan.
-- (aios_dist.policies: Rank.value and agent_first, which a test holds against this.)
local function rank_of(job, h)
  local f = redis.call('HMGET', key('job', job), 'pp', 'pr', 't0', 'pl')
  if f[1] and h[H.kind] == 'llm' then
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
  if h[H.since] == SINCE.submitted then since = tonumber(f[3])
  elseif h[H.since] == SINCE.round then
    local r = rules(h[H.lane])
    local k = key('rounds', r.fair and h[H.lane] .. '|' .. tenant_of(job) or h[H.lane])
    local last = redis.call('HMGET', k, '!', h[H.group])
    since = math.max(tonumber(last[1] or '0'), tonumber(last[2] or '-1') + 1)
    redis.call('HSET', k, h[H.group], int(since))
  end
  return h[H.base] + since - h[H.level] * tonumber(f[2] or '0')
end

-- The step waits on its lane from now on; its rank is decided here.
local function make_ready(job, step, h)
  local at = stamp()
  h[H.ready] = at
  h[H.rank] = rank_of(job, h)
  h[H.state] = 'ready'
  if rules(h[H.lane]).fair then lift(h[H.lane], tenant_of(job), h[H.label]) end
  put(job, step, h)
  place(job, step, h)
  event(job, at, 'ready', step, h[H.label])
  ticket(h[H.lane], job, step)
end

-- A step that was ready before waits again, with the rank that it had.
local function back(job, step, h, at, why)
  h[H.state] = 'ready'
  put(job, step, h)
  place(job, step, h)
  event(job, at, 'released', step, why)
  ticket(h[H.lane], job, step)
end

-- The job's program has to be run; not by us. It runs as a step on the lane `turns`, once at a time.
local function need_turn(job)
  if redis.call('HGET', key('job', job), 'st') == 'paused' then
    redis.call('HSET', key('job', job), 'wake', 1)
    return
  end
  local h = head(job, TURN)
  if h and (h[H.state] == 'ready' or h[H.state] == 'leased') then return end
  h = new_head('turn', 'turns', 'idle', 'turn')
  local before = head(job, TURN)
  if before then h[H.attempt] = before[H.attempt] end
  make_ready(job, TURN, h)
end

-- A run that succeeded becomes part of its agent's past.
local function remember(job)
  local f = redis.call('HMGET', key('job', job), 'ag', 'us', 'uc')
  if not f[1] or tonumber(f[3] or '0') <= 0 then return end
  local k = key('past', f[1])
  redis.call('LPUSH', k, (f[2] or '0') .. ':' .. f[3])
  redis.call('LTRIM', k, 0, MOST_PAST - 1)
  redis.call('PEXPIRE', k, PAST_MS)
end
