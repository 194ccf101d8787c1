-- Limits of models, over the whole fleet, as leases. Shared by claim, commit, release, reap.
--
-- model:M    l_if/l_rpm/l_tpm limits (in flight, requests and tokens a minute), hold until (µs), win the
--            calls let in at a time after a hold (0: all), fails failures in a row, tok tokens in the window,
--            brk 1 where the hold is the breaker's, na answers since it is known, nu those that brought no usage,
--            fb its fallbacks in their order ("lane|model …"), fba µs of a hold from which they are used, fbc see divert_held
-- limited    the models (and "@T") that have such limits, or a hold
-- inflight:M the leases that count; window:M "lease|tokens" of the last minute by start; held:M steps by rank
--            ln the lane whose shares count among its held steps
-- A tenant's limit of calls in flight is that of a model called "@T".

local INPUT_COST, OUTPUT_COST = 1, 2 -- of a token, in fair share (aios_dist.model.calls has the same)
local MINUTE = 60000000
local MOST_LET_IN = 100 -- at a time

-- The calls that a window counts: those let in since the hold. Calls from before it say nothing of how the
-- provider is now, and may take minutes; neither may one that hangs, or whose worker died, shut the model.
local PROBE = 5000000
local function since(model, held, now) return #redis.call('ZRANGEBYSCORE', key('inflight', model), int(math.max(held, now - PROBE)), '+inf') end

-- Held steps of a model are looked at then at the latest, whatever happens meanwhile; nil: when a call ends.
local function look_at_held(model, at)
  if at then redis.call('ZADD', P .. 'timers', 'LT', int(at), 'model:' .. model .. '/!') end
end

-- Whether a model keeps its steps waiting for so long that they go elsewhere: its breaker is open, or its hold is a long one.
local FALLBACK_AFTER = 60000000 -- µs, where nothing is said (aios_dist.config has the same)
local function keeps_waiting(model, now)
  local m = redis.call('HMGET', key('model', model), 'hold', 'brk', 'fba')
  local left = number(m[1]) - now
  return left > 0 and (m[2] == '1' or left > (tonumber(m[3] or '') or FALLBACK_AFTER))
end

-- The lane and the name of the next model in the order of the first one's fallbacks that somebody serves and nothing holds; nil: none.
local function other_model(job, step, h, now)
  local first = redis.call('HGET', key('job', job), 'l' .. step)
  first = first and string.match(first, '|(.*)$') or h[H.label]
  local fallbacks, reached = redis.call('HGET', key('model', first), 'fb'), first == h[H.label]
  for lane, model in string.gmatch(fallbacks or '', '(%S+)|(%S+)') do
    if reached and somebody_serves('model/' .. model) and number(redis.call('HGET', key('model', model), 'hold')) <= now then return lane, model end
    reached = reached or model == h[H.label]
  end
end

-- Whether one more call of this model may start now; if not, when to look again (nil: when one ends), and how many tokens are left
-- where it is only these. If so, how many may (MOST_LET_IN at the most; where nothing binds, any number), whether a call that starts
-- leaves as many places on the lane as there were, and the limit where it can never fit: it needs no room, its worker refuses it.
local function allowed(model, est, now)
  local m = redis.call('HMGET', key('model', model), 'l_if', 'l_rpm', 'l_tpm', 'hold', 'win', 'tok')
  local most, rpm, tpm, held, window = number(m[1]), number(m[2]), number(m[3]), number(m[4]), number(m[5])
  if tpm > 0 and est > tpm then return true, nil, MOST_LET_IN, false, tpm end
  if held > now then return false, held end
  local busy = redis.call('ZCARD', key('inflight', model))
  if most > 0 and busy >= most then return false end
  local free, steady = math.huge, most > 0 and most <= MOST_LET_IN and window == 0 and rpm == 0 and tpm == 0
  if most > 0 then free = math.min(free, most - busy) end
  if window > 0 then
    local probes = since(model, held, now)
    if probes >= window then return false, now + PROBE end
    free = math.min(free, window - probes)
  end
  if rpm > 0 or tpm > 0 then
    local w, used = key('window', model), number(m[6])
    local old = redis.call('ZRANGEBYSCORE', w, '-inf', int(now - MINUTE))
    if #old > 0 then
      for _, entry in ipairs(old) do
        used = used - number(string.match(entry, '|(%d+)$'))
      end
      redis.call('ZREMRANGEBYSCORE', w, '-inf', int(now - MINUTE))
      redis.call('HSET', key('model', model), 'tok', int(used))
    end
    local count = redis.call('ZCARD', w)
    -- The sum is kept beside the window, not made anew at each claim: a minute may have thousands of entries.
    if count == 0 and used ~= 0 then -- also where the whole window has expired meanwhile
      redis.call('HSET', key('model', model), 'tok', 0)
    end
    if count > 0 and ((rpm > 0 and count >= rpm) or (tpm > 0 and used + est > tpm)) then
      local first = redis.call('ZRANGE', w, 0, 0, 'WITHSCORES')
      return false, tonumber(first[2]) + MINUTE + 1, (rpm == 0 or count < rpm) and math.max(0, tpm - used) or nil
    end
    if rpm > 0 then free = math.min(free, rpm - count) end
    if tpm > 0 then free = math.min(free, MOST_LET_IN) end
  end
  if free < math.huge then free = math.min(free, MOST_LET_IN) end
  return true, nil, free, steady
end

local function of_tenant(model) return string.sub(model, 1, 1) == '@' end

-- A step waits until its model (or tenant, "@T") has room; with fair share, among its tenant's. What a tenant's cap
-- holds waits by lane: ranks of two lanes say nothing of each other, and a lane that nobody serves keeps none from another.
-- While steps of the lane that are held are still to be ranked anew, what is `new` there goes behind them.
local function hold_back(model, job, step, h, new)
  local lane = h[H.lane]
  local part = of_tenant(model) and lane or rules(lane).fair and tenant_of(job) or nil
  if part and not of_tenant(model) then redis.call('HSET', key('model', model), 'ln', lane) end
  local late = new and not outdated(h) and (rules(lane).look or redis.call('EXISTS', key('astray', lane), key('stray', lane)) > 0)
  put_on('held', model, member(job, step), h, part, late)
  redis.call('ZADD', key('holds', lane), 0, model)
  if model == h[H.label] and keeps_waiting(model, clock()) then look_at_held(model, clock()) end
  if outdated(h) or late then redis.call('ZADD', key('astray', lane), 0, member(job, step)) end
end

-- What holds the step, where something does.
local function unhold(job, step, h)
  local m, tenant = member(job, step), tenant_of(job)
  if take_off('held', h[H.label], m, tenant) then return h[H.label] end
  if take_off('held', '@' .. tenant, m, h[H.lane]) then return '@' .. tenant end
  for _, need in ipairs(needs_of(job, h)) do
    if take_off('held', '?' .. need, m, tenant) then return '?' .. need end
  end
end

-- A step that the worker at hand cannot serve makes way for others, and waits for one that can. Gives whether there is one.
-- `code`: of its job, where that has begun.
local function leave_to_others(job, step, h, code)
  if h[H.kind] ~= 'llm' and (code or '') ~= (h[H.code] or '') then -- the shelf that it stands on is told by its head
    h[H.passed], h[H.rejected], h[H.once] = h[H.passed] or 0, h[H.rejected] or '', h[H.once] or '' -- an array has no holes
    h[H.code] = code or ''
    put(job, step, h)
  end
  local need = need_of(job, h)
  hold_back('?' .. need, job, step, h)
  redis.call('ZADD', key('wanted', h[H.lane]), 0, need)
  -- A release before codes gives tickets for what `serving` has, and takes such a step: where it is put back, none is left behind.
  if string.sub(need, 1, 5) == 'code/' then redis.call('ZADD', P .. 'serving', 'GT', int(clock() + A.retention_ms * 1000), need) end
  return somebody_serves(need)
end

-- The held step that goes first: its name, rank, tenant and how that one stands among them (the last two with fair
-- share; of "@T" the lane and nothing). `aged`: the one that has waited longest, of the tenant whose turn it is. Of what
-- was held before shares were switched on (or off), first that.
local function first_held(model, aged, lane)
  local shelf, part, has = aged and 'heldold' or 'held', nil, nil
  if of_tenant(model) then
    if redis.call('EXISTS', key('held', model)) == 0 then part = lane end
  else
    local by = redis.call('HGET', key('model', model), 'ln')
    if by and not (rules(by).fair and redis.call('EXISTS', key('held', model)) == 1) then
      part, has = least('held', model, by)
    end
  end
  local top = redis.call('ZRANGE', key(shelf, compartment(model, part)), 0, 0, 'WITHSCORES')
  return top[1], tonumber(top[2]), part, has
end

-- What does not fit into the tokens that are left makes way for what does, for a minute from when it was first met so. Then
-- nothing passes it any more, and the window is empty after another one at the latest. Gives whether it may be passed.
local function may_pass(job, step, h)
  if (h[H.passed] or 0) < h[H.ready] then
    h[H.passed] = clock()
    put(job, step, h)
  end
  return clock() - h[H.passed] < MINUTE
end

local fitting
do -- (a chunk of Lua has 200 locals at the most)
  local MOST_SEEN, MOST_BEFORE = 50, 4 -- held steps that are looked at for one that fits; and when one has just come

  -- The first held step of a model that fits into so many tokens, of those that stand in front: its name, head, tenant and how that
  -- stands. `of`: only of that tenant (""; of those that are not shared); `aged`: the one that has waited longest; `come`: nothing is new
  -- but that one, so it goes if it fits, behind those in front that do by now.
  fitting = function(model, left, of, aged, come)
    local limit = number(redis.call('HGET', key('model', model), 'l_tpm'))
    local function fits(m) -- (or never will: it needs no room, see `allowed`)
      local job, step = split(m)
      local h = job and head(job, step)
      local est = h and bounded(h[H.est])
      return h and h[H.state] == 'ready' and (est <= left or est > limit) and h, job
    end
    local its, job
    if come then
      its, job = fits(come)
      if not its then return end
    end
    local parts, shelf = of and { of } or redis.call('ZRANGE', key('heldby', model), 0, 9, 'WITHSCORES'), aged and 'heldold' or 'held'
    local most = math.floor((come and MOST_BEFORE or MOST_SEEN) / math.max(1, #parts / 2)) -- of each tenant
    for i = of and 1 or -1, #parts, 2 do
      local part = i > 0 and parts[i] ~= '' and parts[i] or nil
      for _, m in ipairs(redis.call('ZRANGE', key(shelf, compartment(model, part)), 0, most - 1)) do
        local h = fits(m)
        if h then return m, h, part, part and tonumber(parts[i + 1] or '') end
      end
    end
    local part = its and rules(its[H.lane]).fair and tenant_of(job) or nil
    if its then return come, its, part, part and tonumber(redis.call('ZSCORE', key('heldby', model), part) or '') end
  end
end

local let_in
local letting -- who is being let in right now: who is placed meanwhile and held back must not begin it anew
local freed -- names that have room or another first, in their order: looked at when the verb has done the rest
each_call(function()
  letting, freed = {}, {}
end)
local function later(name)
  if not freed[name] then
    freed[name] = true
    freed[#freed + 1] = name
  end
end
local function has_held(model, lane)
  if redis.call('EXISTS', key('held', model)) == 1 then return true end
  return redis.call('EXISTS', of_tenant(model) and key('held', model .. '|' .. lane) or key('heldby', model)) == 1
end

-- Whether a limit keeps the step off its lane for now: then it is held, and takes no slot's time. On the lane stand only
-- as many of a model or tenant as may start, in the order of what is held; when one leaves, or room comes, the next is
-- let in. (What stood there before the limit did is put aside by the claims that meet it.)
local divert
kept_off = function(limits, job, step, h, past, kept, new)
  for _, name in ipairs(limits) do
    if name ~= past then
      local lane = h[H.lane]
      local waits = not letting[name .. '|' .. lane] and has_held(name, lane)
      local yes, again, free = not waits, nil, nil
      if yes then
        yes, again, free = allowed(name, of_tenant(name) and 0 or bounded(h[H.est]), clock())
      end
      -- Those that were let in and not claimed yet have taken their room already.
      if not yes or free <= redis.call('ZCARD', in_set(lane, name)) then
        for _, other in ipairs(limits) do
          redis.call('ZREM', in_set(lane, other), member(job, step))
          if other ~= name and other ~= past then later(other) end -- it may have come with a place there, which is for the next
        end
        if not yes and name == h[H.label] and keeps_waiting(name, clock()) and divert(job, step, h, clock(), kept) then return true end
        hold_back(name, job, step, h, new)
        if waits or yes then
          let_in(name, member(job, step))
        else
          look_at_held(name, again)
        end
        return true
      end
    end
  end
  return false
end

do -- (a chunk of Lua has 200 locals at the most)
  -- One that was let in and goes behind those that are held makes way. Not between tenants of a shared lane, whose shares
  -- decide at the claim; nor one that has waited longer than all of them: its turn comes by that.
  local function makes_way(model, h, rank, part)
    local lane = h[H.lane]
    if part and not of_tenant(model) then return false end
    local last = redis.call('ZRANGE', in_set(lane, model), -1, -1, 'WITHSCORES')
    if not last[1] or tonumber(last[2]) <= rank then return false end
    local job, step = split(last[1])
    local other = job and head(job, step)
    if not other or other[H.state] ~= 'ready' or other[H.lane] ~= lane then
      redis.call('ZREM', in_set(lane, model), last[1])
      return true
    end
    local old = rules(lane).oldest > 0 and redis.call('ZRANGE', key('heldold', compartment(model, part)), 0, 0, 'WITHSCORES')[2]
    if old and other[H.ready] < tonumber(old) then return false end
    if not take(job, step, other) then return false end
    hold_back(model, job, step, other)
    for _, name in ipairs(limits_of(job, other)) do
      if name ~= model then let_in(name) end
    end
    return true
  end

  local MOST_MOVED = 20 -- in one call; the reconciler goes on at once

  local function let_in_on(model, on, come)
    local ahead, moved, made_way = {}, 0, false
    while true do
      local top, rank, part, has = first_held(model, false, on)
      if not top then return end
      local job, step = split(top)
      local h = job and head(job, step)
      if not h or h[H.state] ~= 'ready' then
        take_from('held', model, top, part)
      else
        local lane = h[H.lane]
        local fair = rules(lane).fair
        local of = fair and tenant_of(job) or '' -- perhaps it is the turn of the one that has waited longest: of its tenant's
        local standing = ahead[of]
        if not standing then standing = fair and redis.call('ZCARD', key('ready', lane .. '|' .. of)) or 0 end
        local oldest = turn_of_oldest(lane, of, standing) and first_held(model, true, on)
        local by_turn = oldest and oldest ~= top
        if by_turn then
          top = oldest
          job, step = split(top)
          h = job and head(job, step)
        end
        ahead[of] = standing + 1
        local yes, again, free = allowed(model, h and not of_tenant(model) and bounded(h[H.est]) or 0, clock())
        if not yes then
          look_at_held(model, again)
          if not h or not free or not may_pass(job, step, h) then return end
          if come == false then return end -- it alone was new, and has gone
          top, h, part, has = fitting(model, free, nil, false, come)
          if not top then return end
          job, step = split(top)
          lane, by_turn = h[H.lane], true
          free = select(3, allowed(model, bounded(h[H.est]), clock()))
        end
        free = free - redis.call('ZCARD', in_set(lane, model))
        if free <= 0 then
          if by_turn or made_way or not makes_way(model, h, rank, part) then return end
          made_way = true
        end
        if top == come then come = false end -- it has gone, and nothing else is new
        local was_held = take_from('held', model, top, part)
        if was_held and h and h[H.state] == 'ready' then
          if place(job, step, h, false, scaled(model) and part and has, model) then
            ticket(lane, job, step)
            if free <= 1 and not made_way then return end -- what is held goes behind those that were let in
          end
          moved = moved + 1
          if moved >= MOST_MOVED then
            look_at_held(model, clock())
            return
          end
        end
      end
    end
  end

  -- Held steps of a model (or tenant) go back to their lane, as many as may start. `come`: one of them that has come just now.
  let_in = function(model, come)
    freed[model] = nil
    local lanes = of_tenant(model) and redis.call('ZRANGE', key('heldby', model), 0, -1) or { '' }
    if of_tenant(model) and redis.call('EXISTS', key('held', model)) == 1 then lanes[#lanes + 1] = '' end
    for _, lane in ipairs(lanes) do
      local name = model .. '|' .. lane
      if not letting[name] then
        letting[name] = true
        let_in_on(model, lane, come)
        letting[name] = nil
      end
    end
  end
end

-- … of those that were noted. Once, at the end: what a verb itself places (a job's next step) has its turn among them.
local function let_in_freed()
  for _, name in ipairs(freed) do
    if freed[name] then let_in(name) end
  end
  freed = {}
end

-- A waiting step has another rank: wherever it waits by rank, it does so anew. Among the held another may go first now.
local function move(job, step, h)
  if take(job, step, h) then
    place(job, step, h, true)
    return true
  end
  local by = unhold(job, step, h)
  if by then
    hold_back(by, job, step, h)
    if string.sub(by, 1, 1) ~= '?' then let_in(by) end
  end
  return by ~= nil
end

-- A step goes to another model; where it began is noted for a retry. Gives whether its lane is another.
local function leave_model(job, step, h, lane, model)
  local k, first = key('job', job), 'l' .. step
  if not redis.call('HGET', k, first) then redis.call('HSET', k, first, h[H.lane] .. '|' .. h[H.label]) end
  h[H.tries] = 0
  return change_lane(job, h, lane, model)
end

-- A ready step on no shelf that its model keeps waiting goes to the next one, and waits there. Gives whether there is one.
-- `kept`: it has competed until now.
divert = function(job, step, h, now, kept)
  local lane, model = other_model(job, step, h, now)
  if not lane then return false end
  event(job, stamp(), 'released', step, h[H.label] .. ' is on hold: goes to ' .. model) -- first: those before it follow from the head
  local moved = leave_model(job, step, h, lane, model)
  h[H.state] = 'ready'
  put(job, step, h)
  if place(job, step, h, kept and not moved) then ticket(lane, job, step) end
  return true
end

-- The same for what the model holds, a page at a time; as long as it keeps them waiting, the reconciler comes again. What
-- has nowhere to go stays; the page goes on behind it (fbc: so many of them, or of tenants, were passed).
local function divert_held(model)
  local MOST_DIVERTED = 50
  local now, k = clock(), key('model', model)
  if string.sub(model, 1, 1) == '@' or not keeps_waiting(model, now) then return end
  local from, some, found = number(redis.call('HGET', k, 'fbc')), false, 0
  local function page(tenant, first, most)
    local stay = 0
    local names = redis.call('ZRANGE', key('held', compartment(model, tenant)), first, first + most - 1)
    found = found + #names
    for _, m in ipairs(names) do
      local job, step = split(m)
      local h = job and head(job, step)
      if h and h[H.state] == 'ready' and h[H.label] == model and other_model(job, step, h, now) then
        take_from('held', model, m, tenant)
        some = divert(job, step, h, now, false) or some
      else
        stay = stay + 1
      end
    end
    return stay
  end
  local tenants = redis.call('ZRANGE', key('heldby', model), from, from + 9)
  local passed = page(nil, #tenants > 0 and 0 or from, MOST_DIVERTED)
  for _, tenant in ipairs(tenants) do
    page(tenant, 0, MOST_DIVERTED / 10)
  end
  if #tenants > 0 then passed = #redis.call('ZRANGE', key('heldby', model), from, from + 9) end
  local more = #tenants == 10 or (#tenants == 0 and found == MOST_DIVERTED)
  redis.call('HSET', k, 'fbc', more and int(from + passed) or 0)
  if found > 0 or from > 0 then look_at_held(model, some and now or now + 2000000) end
end

-- What a call without usage is taken to have cost: what was reserved for it. (Its cost is prompt + 2 × output.)
local function estimated(h)
  local est = bounded(h[H.est])
  local output = math.max(0, math.min(est, (bounded(h[H.cost]) - INPUT_COST * est) / (OUTPUT_COST - INPUT_COST)))
  return est - output, output
end

-- A claimed step counts against its model's limits from now on (but one that is never called, since it is `over`). Its head is
-- written before what counts it, so that nothing is counted that no head knows of.
local function enter(h, job, step, now, over)
  h[H.capped], h[H.counted], h[H.passed] = 0, 0, h[H.passed] and 0 -- (an array has no holes)
  if h[H.kind] ~= 'llm' then
    put(job, step, h)
    return
  end
  local own = '@' .. tenant_of(job)
  h[H.capped] = redis.call('EXISTS', key('model', own))
  local counts = not over and redis.call('EXISTS', key('model', h[H.label])) == 1
  if counts then h[H.counted] = now end
  put(job, step, h)
  if h[H.capped] == 1 then redis.call('ZADD', key('inflight', own), int(now), lease_of(job, step, h)) end
  if not counts then return end
  local lease, model = lease_of(job, step, h), h[H.label]
  redis.call('ZADD', key('inflight', model), int(now), lease)
  local l = redis.call('HMGET', key('model', model), 'l_rpm', 'l_tpm')
  if number(l[1]) > 0 or number(l[2]) > 0 then
    local fresh = redis.call('ZADD', key('window', model), int(now), lease .. '|' .. int(h[H.est] or 0))
    redis.call('PEXPIRE', key('window', model), 120000)
    if fresh == 1 then add('HINCRBY', key('model', model), 'tok', int(h[H.est] or 0)) end -- else regained: counted
  end
end

-- … and no longer: its place is free, its estimate becomes what it took. `worked`: the provider answered.
local function leave(h, job, step, tokens, worked)
  local lease, model = lease_of(job, step, h), h[H.label]
  local own = h[H.capped] == 1 and '@' .. tenant_of(job)
  if own then
    h[H.capped] = 0
    redis.call('ZREM', key('inflight', own), lease)
  end
  if not h[H.counted] or h[H.counted] == 0 then
    if worked and h[H.kind] == 'llm' and number(redis.call('HGET', key('model', model), 'fails')) > 0 then -- it began before the first failure
      redis.call('HSET', key('model', model), 'fails', 0)
    end
    if own then later(own) end
    return
  end
  local entry = lease .. '|' .. int(h[H.est] or 0)
  redis.call('ZREM', key('inflight', model), lease)
  local at = redis.call('ZSCORE', key('window', model), entry)
  if at then -- What it took counts from the same start as what was reserved. (Else the minute is over, and neither does.)
    redis.call('ZREM', key('window', model), entry)
    redis.call('ZADD', key('window', model), at, lease .. '|' .. int(tokens))
    redis.call('PEXPIRE', key('window', model), 120000) -- the key was gone if this was its only entry
    add('HINCRBY', key('model', model), 'tok', int(tokens - (h[H.est] or 0)))
  end
  local began = h[H.counted]
  h[H.counted] = 0
  if worked then
    local OPEN_WINDOW = 1024 -- a window that has doubled up to this holds nothing back any more
    local m = redis.call('HMGET', key('model', model), 'win', 'fails', 'hold')
    local window = number(m[1])
    if window > 0 and began >= number(m[3]) then -- an answer to a call from before the hold opens nothing
      window = 2 * window
      redis.call('HSET', key('model', model), 'win', window >= OPEN_WINDOW and 0 or window)
    end
    if number(m[2]) > 0 then redis.call('HSET', key('model', model), 'fails', 0) end
  end
  if own then later(own) end
  later(model)
end

-- A lease of a job that is gone counts no more, whatever its model was. Where there are many limits, `sweep` comes to the rest.
local function forget_lease(lease)
  local MOST_ASKED = 100
  for _, part in ipairs({ { '-', '(@' }, { '[A', '+' }, { '[@', '(A' } }) do -- models first: there may be as many caps as tenants
    for _, model in ipairs(redis.call('ZRANGEBYLEX', P .. 'limited', part[1], part[2], 'LIMIT', 0, MOST_ASKED)) do
      if redis.call('ZREM', key('inflight', model), lease) == 1 then let_in(model) end
    end
  end
end

-- What counts against a model, or is held by it, and is not there: a page of each kind. Gives what was wrong.
local function sweep(model, page)
  local wrong, capped = {}, string.sub(model, 1, 1) == '@'
  local function gone(what) wrong[#wrong + 1] = what end
  for _, lease in ipairs(redis.call('ZRANGE', key('inflight', model), 0, page - 1)) do
    local job, step, token = split_lease(lease)
    local h = job and head(job, step)
    local counts = h and h[H.state] == 'leased' and h[H.token] == token and (capped and h[H.capped] == 1 or h[H.label] == model and h[H.counted] ~= 0)
    if not counts then
      gone('counted ' .. lease .. ', which is no lease')
      redis.call('ZREM', key('inflight', model), lease)
    end
  end
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
    for _, m in ipairs(redis.call('ZRANGE', in_set(lane, model), 0, page - 1)) do
      local job, step = split(m)
      local h = job and head(job, step)
      local stands = h
        and h[H.state] == 'ready'
        and h[H.lane] == lane
        and (h[H.label] == model or '@' .. tenant_of(job) == model)
        and (
          redis.call('ZSCORE', key('stray', lane), m)
          or redis.call('ZSCORE', key('ready', compartment(lane, rules(lane).fair and tenant_of(job) or nil)), m)
        )
      if not stands then
        gone('let in ' .. m .. ', which does not wait on ' .. lane)
        redis.call('ZREM', in_set(lane, model), m)
      end
    end
  end
  local names = { model }
  for _, tenant in ipairs(redis.call('ZRANGE', key('heldby', model), 0, page - 1)) do
    local name = model .. '|' .. tenant
    if redis.call('EXISTS', key('held', name)) == 1 then
      names[#names + 1] = name
    else
      gone('held nothing of ' .. tenant)
      redis.call('ZREM', key('heldby', model), tenant)
    end
  end
  for _, name in ipairs(names) do
    for _, shelf in ipairs({ 'held', 'heldold' }) do
      for _, m in ipairs(redis.call('ZRANGE', key(shelf, name), 0, page - 1)) do
        local job, step = split(m)
        local h = job and head(job, step)
        local waits = h and h[H.state] == 'ready'
        if waits and shelf == 'heldold' then waits = redis.call('ZSCORE', key('held', name), m) end
        if not waits then
          gone('held ' .. m .. ', which does not wait')
          if redis.call('ZREM', key(shelf, name), m) == 1 and shelf == 'held' and name ~= model then count_on('held', model, -1) end
        end
      end
    end
  end
  local sum, entries = 0, redis.call('ZRANGE', key('window', model), 0, -1)
  for _, entry in ipairs(entries) do
    sum = sum + number(string.match(entry, '|(%d+)$'))
  end
  if #entries > 0 and sum ~= number(redis.call('HGET', key('model', model), 'tok')) then
    gone('counted other tokens than its calls took')
    redis.call('HSET', key('model', model), 'tok', int(sum))
  end
  -- … or where no call that ends and no timer would let anyone in: then this does.
  local awaited = redis.call('EXISTS', key('inflight', model)) == 1 or redis.call('ZSCORE', P .. 'timers', 'model:' .. model .. '/!')
  if #wrong > 0 or not awaited then let_in(model) end
  return wrong
end

-- Nobody calls this model for a while: the provider said so, or it fails again and again (circuit breaker).
-- Afterwards one call goes first, and with each success twice as many. `began`: the call's start; of calls from
-- before a hold, which one fault fails together, only those that say how long (429) change anything.
-- said: {hold_us: 0, or how long the provider wants to be left in peace, breaker: failures in a row that hold it too; 0: none do}
local function hold(model, said, began, now)
  local k, for_us, open = key('model', model), bounded(said.hold_us), false
  has_limits[model] = true
  redis.call('ZADD', P .. 'limited', 0, model)
  if began > 0 and began < number(redis.call('HGET', k, 'hold')) then
    if for_us == 0 then return end
  else
    local fails = add('HINCRBY', k, 'fails', 1)
    if for_us == 0 and said.breaker > 0 and fails >= said.breaker then
      for_us, open = math.min(60, 2 ^ math.min(6, fails - said.breaker)) * 1000000, true
    end
  end
  if for_us > 0 then
    local before = number(redis.call('HGET', k, 'hold'))
    local till = math.max(before, now + for_us)
    redis.call('HSET', k, 'hold', int(till), 'win', 1, unpack((open or till > before) and { 'brk', open and 1 or 0 } or {}))
    look_at_held(model, keeps_waiting(model, now) and now or till + 1)
  end
end

-- A call of the model was answered; `without` any usage.
local function answers(model, without)
  local k = key('model', model)
  if without then
    redis.call('ZADD', P .. 'limited', 0, model)
    add('HINCRBY', k, 'nu', 1)
  end
  add('HINCRBY', k, 'na', 1)
end
