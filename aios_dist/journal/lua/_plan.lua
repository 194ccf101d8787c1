-- Jobs, their turns and plans: shared by submit, extend, commit, advance, cancel, reap.
--
-- plan:ID   st state, n nodes, dig digest of what was submitted; node<I> = {mode, parent, children, ended, admitted, on_failure, failed},
--           c<I>.<K> the K-th child of node I: "j" .. job or "n" .. node. Node 0 is the root.
--           a<I> when the agent-first node I was first ready, s<I>.<P> steps of its place P, places ("places|jobs") and next: those of an agent-first root
-- A `fixed` node admits its next child when the one before has ended, `fifo` and `agent-first` nodes all at once.

local N = { mode = 1, parent = 2, children = 3, ended = 4, admitted = 5, on_failure = 6, failed = 7 }

local end_job, admit_child   -- each needs the other
-- Admitting gives nil while what was admitted goes on, else whether it failed: a loop over the members, so
-- that a plan of thousands whose jobs end in turn 0 does not fill Lua's stack (its depth is the nesting's).

local function node(plan, i) return cmsgpack.unpack(redis.call('HGET', key('plan', plan), 'node' .. i)) end
local function put_node(plan, i, v) redis.call('HSET', key('plan', plan), 'node' .. i, cmsgpack.pack(v)) end
local function child(plan, i, k) return redis.call('HGET', key('plan', plan), 'c' .. i .. '.' .. k) end

-- An outcome is written: once, in the order of writing, with all that belongs to it in one command (`more`: a flat list of
-- fields). The caller has checked that there is none.
local function write_outcome(job, step, h, ok, blob, at, more)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'v', 'dg')
  local order = number(facts[1]) + 1
  mark(job)
  redis.call('ZREM', P .. 'leases', lease_of(job, step, h))
  h[H.state] = ok and 'done' or 'failed'
  h[H.ended] = at
  h[H.order] = order
  local came = step .. ' ' .. (h[H.token] ~= '' and h[H.token] or int(at))   -- a claim's token is random
  redis.call('HSET', k, 'v', order, 'o' .. step, blob, 'h' .. step, cmsgpack.pack(h), 'dg', chain(facts[2] or '', came),
             unpack(more or {}))
  event(job, at, h[H.state], step)
  return order
end

-- A signal that came before anyone waited for it, the oldest, is the outcome of this step. Each is a field of its own; it
-- is taken with the command that writes it. Gives whether there was one.
local function had_signal(job, step, h)
  local k, ends = key('job', job), 'g|' .. h[H.label]
  local first, next_ = string.match(redis.call('HGET', k, ends) or '', '^(%d+)|(%d+)$')
  local field = first and ends .. '|' .. first
  local blob = field and redis.call('HGET', k, field)
  if not blob then return false end
  write_outcome(job, step, h, true, blob, stamp(), { ends, int(first + 1) .. '|' .. next_ })
  redis.call('HDEL', k, field)
  return true
end

-- A step begins to wait: on its lane, for a time, or for a signal.
local function begin(job, step, h)
  if h[H.kind] == 'sleep' then
    h[H.state], h[H.ready] = 'timed', stamp()
    put(job, step, h)
    redis.call('ZADD', P .. 'timers', int(clock() + h[H.after]), member(job, step))
    event(job, h[H.ready], 'timed', step, h[H.label])
  elseif h[H.kind] == 'signal' then
    h[H.state], h[H.ready] = 'waiting', stamp()
    event(job, h[H.ready], 'waiting', step, h[H.label])
    if had_signal(job, step, h) then need_turn(job) else put(job, step, h) end
  else
    make_ready(job, step, h)
  end
end

local function head_of(s)
  return { s.kind, s.lane, 'pending', 0, s.base, SINCE[s.since], 0, 0, 0, 0, 0, '', s.digest, s.label, 0,
           0, bounded(s.est), s.after, 0, s.level, s.group, s.policy, bounded(s.cost), 0, 0, '', 0, 0 }
end

local MOST_AT_ONCE = 1000   -- steps in one HSET: as many as Lua can hand over

-- New steps are written with the count of them, in one command (a thousand at a time): whatever stops us, the heads say
-- what is still to begin.
local function add_steps(job, steps)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'n', 'dg')
  local first, proof = tonumber(facts[1]), facts[2] or ''
  local heads, fields = {}, {}
  mark(job)
  for i, s in ipairs(steps) do
    local step, h = int(first + i - 1), head_of(s)
    heads[i], proof = h, chain(proof, step .. ' ' .. s.digest .. ' ' .. s.label)
    fields[#fields + 1], fields[#fields + 2] = 'q' .. step, s.request
    fields[#fields + 1], fields[#fields + 2] = 'h' .. step, cmsgpack.pack(h)
    if i % MOST_AT_ONCE == 0 or i == #steps then
      redis.call('HSET', k, 'n', int(first + i), 'dg', proof, unpack(fields))
      fields = {}
    end
  end
  return first, heads
end

-- What a turn decided: new steps, or the end. `state` is where the job stands.
local function apply_turn(job, decision, state)
  local k = key('job', job)
  if #decision.steps > 0 then
    local first, heads = add_steps(job, decision.steps)
    if state == 'running' then
      for i, h in ipairs(heads) do begin(job, int(first + i - 1), h) end
    end
  end
  redis.call('ZREM', P .. 'due', job)
  if decision.ends ~= '' then
    if state == 'running' then
      end_job(job, decision.ends, decision.result)
    else  -- it needs no step at all, but its plan has not admitted it: remember the end
      redis.call('HSET', k, 'ends', decision.ends, 'res', decision.result)
    end
  end
end

local function admit_job(job)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'st', 'n', 'ends', 'res', 'pl', 'v')
  if facts[5] and (facts[1] == 'running' or facts[1] == 'paused') then return nil end   -- by a verb that broke then
  if facts[1] ~= 'waiting' then return facts[1] ~= 'done' end   -- cancelled before its turn came
  mark(job)
  redis.call('HSET', k, 'st', 'running')
  event(job, stamp(), 'admitted', '')
  if facts[3] then
    redis.call('HDEL', k, 'ends')
    end_job(job, facts[3], facts[4], true)
    return facts[3] ~= 'done'
  end
  local count = steps_of(job, facts[2])
  if count == 0 or number(facts[6]) > 0 then need_turn(job) end   -- (answers to claims that Redis has lost may be there)
  for step = 0, count - 1 do
    local h = head(job, step)
    if h[H.state] == 'pending' then begin(job, int(step), h) end
  end
end

-- Whatever below this child was not admitted yet is cancelled without a word to the plan.
local function drop_child(plan, i, k)
  local c = child(plan, i, k)
  if string.sub(c, 1, 1) == 'j' then
    local job = string.sub(c, 2)   -- one that was cancelled and retried is no business of the plan's any more
    if redis.call('HGET', key('job', job), 'st') == 'waiting' then end_job(job, 'cancelled', '', true) end
  else
    local j = string.sub(c, 2)
    for n = 0, node(plan, j)[N.children] - 1 do drop_child(plan, j, n) end
  end
end

local function end_plan(plan, failed)
  local state = failed and 'failed' or 'done'
  redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'plan', plan, 'state', state)
  redis.call('PEXPIRE', key('plan', plan), A.retention_ms)
  redis.call('HSET', key('plan', plan), 'st', state)   -- last: until then mending ends it once more
end

-- One more member of node I has ended; after a failure that stops it, those to come are dropped.
local function count_end(plan, i, v, failed)
  v[N.ended] = v[N.ended] + 1
  if failed and v[N.on_failure] == 'stop' then
    v[N.failed] = 1
    if v[N.mode] == 'fixed' then
      for k = v[N.admitted], v[N.children] - 1 do drop_child(plan, i, k) end
      v[N.admitted], v[N.ended] = v[N.children], v[N.children]
    end
  end
end

-- Admit the members whose turn it is. Gives nil while the node goes on, else whether it failed.
local function admit_next(plan, i, v)
  while v[N.admitted] < v[N.children] and (v[N.mode] ~= 'fixed' or v[N.ended] == v[N.admitted]) do
    local k = v[N.admitted]
    v[N.admitted] = k + 1
    local failed = admit_child(plan, i, k)
    if failed ~= nil then count_end(plan, i, v, failed) end
  end
  put_node(plan, i, v)
  if v[N.ended] == v[N.children] then return v[N.failed] == 1 end
end

admit_child = function(plan, i, k)
  local c = child(plan, i, k)
  local id = string.sub(c, 2)
  if string.sub(c, 1, 1) == 'j' then return admit_job(id) end
  return admit_next(plan, id, node(plan, id))
end

-- The root's new members, or all of a new plan.
local function admit_root(plan)
  local failed = admit_next(plan, '0', node(plan, '0'))
  if failed ~= nil then end_plan(plan, failed) end
end

-- A member that was admitted has ended: on to the next, and upwards as far as nodes end with it.
local function child_ended(plan, i, failed)
  repeat
    local v = node(plan, i)
    count_end(plan, i, v, failed)
    failed = admit_next(plan, i, v)
    if failed ~= nil and v[N.parent] < 0 then return end_plan(plan, failed) end
    i = int(v[N.parent])
  until failed == nil
end

-- A step that nobody brings to an end goes to the dead letters, and its outcome says so; with a turn the job ends.
local function give_up(job, step, h, blob, due_us)
  h[H.token] = ''   -- this is nobody's answer: on a Redis that was put back the same claim may have had another
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

-- Out of every set in which a step can wait.
local function set_aside(job, step, h)
  local let, by = take(job, step, h), unhold(job, step, h)
  redis.call('ZREM', P .. 'timers', member(job, step))
  if h[H.kind] ~= 'llm' then return end
  if let or (by and string.sub(by, 1, 1) == '?') then   -- perhaps it had been let in, and makes room for the next
    let_in(h[H.label])
    let_in('@' .. tenant_of(job))
  elseif by then let_in(by) end   -- perhaps it was the first, and the next needs less room
end

-- A running job stops where it is: what waits is put aside, what is in flight ends and is kept.
local function pause_job(job, reason)
  local k = key('job', job)
  local count = steps_of(job, redis.call('HGET', k, 'n'))
  mark(job)
  redis.call('HSET', k, 'st', 'paused', 'why', reason)
  if redis.call('ZREM', P .. 'due', job) == 1 then redis.call('HSET', k, 'wake', 1) end
  for step = 0, count - 1 do
    local h = head(job, step)
    if h[H.state] == 'ready' then
      set_aside(job, step, h)
      h[H.state] = 'parked'
      put(job, step, h)
    end
  end
  local turn = head(job, TURN)
  if turn and turn[H.state] == 'ready' then
    set_aside(job, TURN, turn)
    turn[H.state] = 'idle'
    put(job, TURN, turn)
    redis.call('HSET', k, 'wake', 1)
  end
  event(job, stamp(), 'paused', '', reason)
end

-- Steps run again: those named, and those that were dropped. What is answered stays, in its order, without them.
local function run_again(job, numbers)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'n', 'dg')
  local undone, outcomes, again, fields, gone = {}, {}, {}, {}, { 'rt' }
  for _, step in ipairs(numbers) do undone[step] = true end
  mark(job)
  local function change(step, h)
    fields[#fields + 1], fields[#fields + 2] = 'h' .. step, cmsgpack.pack(h)
    if #fields >= 2 * MOST_AT_ONCE then
      redis.call('HSET', k, unpack(fields))
      fields = {}
    end
  end
  for step = 0, steps_of(job, facts[1]) - 1 do
    local h = head(job, step)
    if undone[step] and h[H.state] == 'failed' then
      if h[H.token] ~= '' then fields[#fields + 1], fields[#fields + 2] = 'u|' .. h[H.token], 1 end   -- its usage has counted
      h[H.token] = ''   -- who reports the failure again is fenced
      local first = redis.call('HGET', k, 'l' .. step)
      if first then h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$') end
      again[#again + 1] = { step, h }
    elseif h[H.state] == 'dropped' then again[#again + 1] = { step, h }
    elseif h[H.order] > 0 then outcomes[#outcomes + 1] = { step, h } end
  end
  table.sort(outcomes, function(a, b) return a[2][H.order] < b[2][H.order] end)
  for place, pair in ipairs(outcomes) do
    if pair[2][H.order] ~= place then
      pair[2][H.order] = place
      change(pair[1], pair[2])
    end
  end
  for _, pair in ipairs(again) do
    local step, h = pair[1], pair[2]
    redis.call('ZREM', P .. 'dead', member(job, step))
    h[H.state], h[H.order], h[H.ended], h[H.tries], h[H.lost], h[H.back] = 'pending', 0, 0, 0, 0, 0
    h[H.first] = 0   -- patience begins anew
    change(step, h)
    gone[#gone + 1] = 'o' .. step   -- an outcome whose head says that there is none counts for nobody
  end
  local which = {}
  for i, pair in ipairs(again) do which[i] = pair[1] end
  local proof = chain(facts[2] or '', 'again ' .. table.concat(which, ' '))
  redis.call('HSET', k, 'v', #outcomes, 'dg', proof, unpack(fields))
  for at = 1, #gone, MOST_AT_ONCE do redis.call('HDEL', k, unpack(gone, at, math.min(#gone, at + MOST_AT_ONCE - 1))) end
  for _, pair in ipairs(again) do begin(job, pair[1], pair[2]) end
end

-- The one place where a job ends. Its plan hears of it unless the caller tells it (`silent`) or has not
-- admitted the job: then it meets the ended job when its turn comes.
end_job = function(job, state, result, silent)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'st', 'n', 'v', 'pl', 'pn')
  if facts[1] ~= 'running' and facts[1] ~= 'waiting' and facts[1] ~= 'paused' then return false end
  local at = stamp()
  mark(job)
  redis.call('HSET', k, 'st', state, 'res', result, 't1', int(at))
  if number(facts[2]) > number(facts[3]) then   -- some have no outcome
    for step = 0, steps_of(job, facts[2]) - 1 do
      local h = head(job, step)
      if OPEN[h[H.state]] then
        set_aside(job, step, h)
        h[H.state] = 'dropped'
        put(job, step, h)
      elseif h[H.state] == 'leased' then
        redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'drop', job, tostring(step), h[H.worker] }))
      end
    end
  end
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
  redis.call('ZADD', P .. 'ended', int(at), job)
  redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'job', job, 'state', state)
  redis.call('PEXPIRE', k, A.retention_ms)
  redis.call('PEXPIRE', key('ev', job), A.retention_ms)
  if state == 'done' then remember(job) end
  if facts[4] and facts[1] ~= 'waiting' and not silent then child_ended(facts[4], facts[5], state ~= 'done') end
  return true
end
