-- Jobs and their turns: shared by submit, extend, commit, advance, cancel, reap. Plans: _members.

local end_job, go_on, about_to_end, member_ended -- below, and in _members
local follow_all -- _sweep
local ENDED = { done = true, failed = true, cancelled = true }

-- An outcome is written: once, in the order of writing, with all that belongs to it in one command (`more`: a flat list of
-- fields). The caller has checked that there is none.
local function write_outcome(job, step, h, ok, blob, at, more)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'v', 'dg', 'og', 'tb')
  local version = number(facts[1]) + 1
  local order = version + number(facts[3])
  mark(job)
  redis.call('ZREM', P .. 'leases', lease_of(job, step, h))
  h[H.state] = ok and 'done' or 'failed'
  h[H.ended] = at
  h[H.order] = order
  local came = step .. ' ' .. (h[H.token] ~= '' and h[H.token] or int(at)) -- a claim's token is random
  more = more or {}
  local held = texts.held(job, facts[4], #blob)
  if held then
    more[#more + 1], more[#more + 2] = 'tb', held
  end
  redis.call('HSET', k, 'v', version, 'o' .. step, blob, 'h' .. step, cmsgpack.pack(h), 'dg', chain(facts[2] or '', came), unpack(more))
  event(job, at, h[H.state], step)
  return version
end

local MOST_AT_ONCE = 1000 -- steps in one HSET: as many as Lua can hand over
local begin, apply_turn, park_job
do -- (a chunk of Lua has 200 locals at the most)
  -- A signal that came before anyone waited for it, the oldest, is the outcome of this step. Each is a field of its own; it
  -- is taken with the command that writes it. Gives whether there was one.
  local function had_signal(job, step, h)
    local k, ends = key('job', job), 'g|' .. h[H.label]
    local first, next_ = string.match(redis.call('HGET', k, ends) or '', '^(%d+)|(%d+)$')
    local field = first and ends .. '|' .. first
    local blob = field and redis.call('HGET', k, field)
    if not blob then return false end
    local kept, bytes = string.match(redis.call('HGET', k, 'gk') or '', '^(%d+)|(%d+)$') -- (a release before counts none)
    local left = int(math.max(0, (kept or 0) - 1)) .. '|' .. int(math.max(0, (bytes or 0) - #blob))
    write_outcome(job, step, h, true, blob, stamp(), { ends, int(first + 1) .. '|' .. next_, 'gk', left })
    redis.call('HDEL', k, field)
    return true
  end

  -- A step begins to wait: on its lane, for a time, or for a signal. `parked`: its job is paused.
  begin = function(job, step, h, parked)
    if h[H.kind] == 'sleep' then
      h[H.state], h[H.ready] = 'timed', stamp()
      put(job, step, h)
      redis.call('ZADD', P .. 'timers', int(clock() + h[H.after]), member(job, step))
      event(job, h[H.ready], 'timed', step, h[H.label])
    elseif h[H.kind] == 'signal' then
      h[H.state], h[H.ready] = 'waiting', stamp()
      event(job, h[H.ready], 'waiting', step, h[H.label])
      if had_signal(job, step, h) then
        need_turn(job)
      else
        put(job, step, h)
      end
    else
      make_ready(job, step, h, parked)
    end
  end

  local function head_of(s)
    local h = new_head(s.kind, s.lane, 'pending', s.label)
    h[H.digest], h[H.est], h[H.cost], h[H.after] = s.digest, bounded(s.est), bounded(s.cost), s.after
    h[H.policy], h[H.base], h[H.since], h[H.level], h[H.group] = s.policy, s.base, SINCE[s.since], s.level, s.group
    if s.rejected or s.once then -- an array has no holes
      h[H.passed], h[H.rejected], h[H.once] = 0, s.rejected or '', s.once
    end
    return h
  end

  -- New steps are written with the count of them, in one command (a thousand at a time): whatever stops us, the heads say
  -- what is still to begin.
  local function add_steps(job, steps)
    local k = key('job', job)
    local facts = redis.call('HMGET', k, 'n', 'dg', 'tb')
    local first, proof = tonumber(facts[1]), facts[2] or ''
    local heads, fields, bytes = {}, {}, 0
    for _, s in ipairs(steps) do
      bytes = bytes + #s.request
    end
    local held = texts.held(job, facts[3], bytes, wide(first + #steps))
    mark(job)
    if wide(first + #steps) and not wide(first) and redis.call('EXISTS', key('ev', job)) == 0 then -- its list begins before it is so wide
      for _, before in ipairs(first_events(job)) do
        redis.call('RPUSH', key('ev', job), before)
      end
    end
    for i, s in ipairs(steps) do
      local step, h = int(first + i - 1), head_of(s)
      heads[i], proof = h, chain(proof, step .. ' ' .. s.digest .. ' ' .. s.label)
      fields[#fields + 1], fields[#fields + 2] = 'q' .. step, s.request
      fields[#fields + 1], fields[#fields + 2] = 'h' .. step, cmsgpack.pack(h)
      if i % MOST_AT_ONCE == 0 or i == #steps then
        if held then
          fields[#fields + 1], fields[#fields + 2] = 'tb', held
        end
        redis.call('HSET', k, 'n', int(first + i), 'dg', proof, unpack(fields))
        fields = {}
      end
    end
    return first, heads
  end

  -- What a turn decided: new steps, or the end. `state` is where the job stands.
  apply_turn = function(job, decision, state)
    local k = key('job', job)
    if decision.parks then return park_job(job, decision) end
    if decision.most and #decision.steps > 0 and texts.too_many(job, decision) then return park_job(job, decision) end
    texts.keep(job, decision.texts)
    if decision.code then redis.call('HSET', k, 'ch', decision.code, 'cn', int(decision.first + #decision.steps)) end
    if #decision.steps > 0 then
      local first, heads = add_steps(job, decision.steps)
      if state == 'running' then
        for i, h in ipairs(heads) do
          begin(job, int(first + i - 1), h)
        end
      end
    end
    if decision.more > 0 and state ~= 'running' then
      redis.call('HSET', k, 'wake', 1)
    elseif decision.more > 0 then
      due_later(job, decision.more) -- should nobody go on with it
    else
      redis.call('ZREM', P .. 'due', job)
    end
    if decision.ends ~= '' then
      if state == 'running' then
        end_job(job, decision.ends, decision.result)
      else -- it needs no step at all, but its plan has not admitted it: remember the end
        redis.call('HSET', k, 'ends', decision.ends, 'res', decision.result)
      end
    end
  end
end

-- A step that nobody brings to an end goes to the dead letters, and its outcome says so; with a turn the job ends.
local function give_up(job, step, h, blob, due_us)
  h[H.token] = '' -- this is nobody's answer: on a Redis that was put back the same claim may have had another
  if step ~= TURN then
    write_outcome(job, step, h, false, blob, stamp())
    due_later(job, due_us)
    need_turn(job)
  else
    h[H.state] = 'dropped'
    put(job, step, h)
    end_job(job, 'failed', blob)
  end
  redis.call('ZADD', P .. 'dead', int(clock()), member(job, step))
  return true
end

local OPEN = { ready = true, pending = true, timed = true, waiting = true, parked = true }

-- Out of every set in which a step can wait. Perhaps it had been let in, or was the first of the held: then the next is.
local function set_aside(job, step, h)
  local let, by = take(job, step, h), unhold(job, step, h)
  redis.call('ZREM', P .. 'timers', member(job, step))
  if h[H.kind] ~= 'llm' then return end
  if let or (by and string.sub(by, 1, 1) == '?') then
    for _, name in ipairs(limits_of(job, h)) do
      later(name)
    end
  elseif by then
    later(by)
  end
end

-- Among the parked stands what would let a job go on, and in `parkedin` the plan that it keeps waiting. `pk` of its hash says so first.
local parked = {} -- (a chunk of Lua has 200 locals at the most)
parked.list = function(job, need, plan)
  redis.call('ZADD', P .. 'parked', 0, need .. '|' .. job)
  if plan then redis.call('ZADD', P .. 'parkedin', 0, plan .. '|' .. job) end
end
parked.tell = function(job, plan)
  redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'parked', job, unpack(plan and { 'in', plan } or {}))
  redis.call('PUBLISH', key('end', job), 'parked')
  if plan then redis.call('PUBLISH', key('behind', plan), job) end
end
parked.no_more = function(job)
  local f = redis.call('HMGET', key('job', job), 'pk', 'pl')
  if not f[1] then return end
  redis.call('ZREM', P .. 'parked', f[1] .. '|' .. job)
  if f[2] then redis.call('ZREM', P .. 'parkedin', f[2] .. '|' .. job) end
  redis.call('HDEL', key('job', job), 'pk')
end

-- A running job stops where it is: what waits is put aside, what is in flight ends and is kept. `said`, `pk`: where it is parked, what its
-- events say (its reason holds words of the user's), and what it is parked for.
local function pause_job(job, reason, said, pk)
  local k = key('job', job)
  mark(job)
  if not pk then parked.no_more(job) end -- a release that knows none has let it go on
  redis.call('HSET', k, 'st', 'paused', 'why', reason, unpack(pk and { 'pk', pk } or {}))
  if redis.call('ZREM', P .. 'due', job) == 1 then redis.call('HSET', k, 'wake', 1) end
  local left = follow_all(job, 'paused', redis.call('HGET', k, 'n'))
  local turn = head(job, TURN)
  if turn and turn[H.state] == 'ready' then
    set_aside(job, TURN, turn)
    turn[H.state] = 'idle'
    put(job, TURN, turn)
    redis.call('HSET', k, 'wake', 1)
  end
  event(job, stamp(), 'paused', '', said or reason)
  return left
end

-- Its program asks for something else than its journal holds: the job stops as it is (parks), until there is code that fits. What would go
-- on with it stands in `parked`. Whoever waits for the job hears of it by `ends`.
park_job = function(job, decision)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'ch', 'pl')
  local need = decision.parks.need or f[1] and f[1] ~= decision.code and need_of(job, nil, f[1]) or '-'
  mark(job)
  if somebody_has(need) then return need_turn(job) end -- its turn is another worker's
  redis.call('HSET', k, 'wake', 1)
  pause_job(job, decision.parks.why, decision.parks.said, need)
  parked.list(job, need, f[2])
  parked.tell(job, f[2])
end

-- The one place where a job ends. Its plan hears of it unless the caller tells it (`silent`) or has not
-- admitted the job: then it meets the ended job when its turn comes.
end_job = function(job, state, result, silent)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'st', 'n', 'v', 'pl', 'pn', 'hp', 'sw')
  if facts[1] ~= 'running' and facts[1] ~= 'waiting' and facts[1] ~= 'paused' then return false end
  local at = stamp()
  mark(job)
  local told = facts[4] and facts[1] ~= 'waiting' and not silent and about_to_end(facts[4], facts[5], job)
  redis.call('HSET', k, 'st', state, 'res', result, 't1', int(at))
  if facts[6] then redis.call('HDEL', k, 'hp') end
  parked.no_more(job)
  -- Some have no outcome; or some had still to follow what it was before.
  local left = (number(facts[2]) > number(facts[3]) or facts[7]) and follow_all(job, state, facts[2])
  local turn = head(job, TURN)
  if turn then
    set_aside(job, TURN, turn)
    if turn[H.state] == 'ready' then
      turn[H.state] = 'dropped'
      put(job, TURN, turn)
    end
  end
  event(job, at, state, '')
  redis.call('ZREM', P .. 'open', job)
  redis.call('ZREM', P .. 'due', job)
  redis.call('ZREM', P .. 'deadlines', job)
  tell_end(job, state)
  redis.call('ZADD', P .. 'ended', int(at), job) -- behind that: so it was told (_mend)
  if not left then
    redis.call('PEXPIRE', k, A.retention_ms)
    redis.call('PEXPIRE', key('ev', job), A.retention_ms)
  end
  if state == 'done' then remember(job) end
  if told then member_ended(facts[4], facts[5], state ~= 'done') end
  return true, left
end
