-- Members of plans: who is admitted when, who is dropped, and when a plan has ended. Shared by all that include _plan.
--
-- plan:ID   st state, n nodes, all jobs, dig digest of what was submitted; node<I> = see N below,
--           c<I>.<K> the K-th child of node I: "j" .. job or "n" .. node. Node 0 is the root.
--           a<I> when the agent-first node I was first ready, s<I>.<P> steps of its place P, places ("places|jobs") and next: those of an agent-first root
--           far "admitted|ended|dropped", of its jobs so far; todo nodes that have something left to do ("3 0": 3 first); now what is being done
--           half "µs|items": it is being submitted, since when the last slice is there and how much (_new); x<DIG> "µs|jobs|node": of an extension
-- plans     plans that have something left to do, and "PLAN/DIG" of extensions, by when
--
-- A `fixed` node admits its next child when the one before has ended, `fifo` and `agent-first` nodes all at once. A fixed node that
-- has failed drops its rest; so does one that is dropped itself. No verb does more than AT_ONCE of this: what is left stands in
-- `todo`, and goes on with the next verb that comes to this plan, with its producer's, with the reconciler's (plans).
--
-- Where a plan stands is written in one command (flush), before what that asks for is done; `now` says what that was. So one that broke
-- half-way is put right by doing `now` once more, whatever the size of the plan.

local N = { mode = 1, parent = 2, children = 3, ended = 4, admitted = 5, on_failure = 6, failed = 7, dropped = 8 }
local AT_ONCE = 16 -- members that are admitted or dropped, and their steps
local allowance -- of this verb
local works -- of plans that this verb has come to
each_call(function()
  allowance, works = AT_ONCE, {}
end)

local function node(w, i)
  if not w.nodes[i] then w.nodes[i] = cmsgpack.unpack(redis.call('HGET', w.key, 'node' .. i)) end
  return w.nodes[i]
end

local function change(w, i) w.changed[i] = true end

-- All that has changed, in one command; `now`: what is done next, '' for nothing; `more`: further fields.
local function flush(w, now, more)
  local fields = { 'todo', table.concat(w.todo, ' '), 'now', now, 'far', table.concat(w.far, '|') }
  for i in pairs(w.changed) do
    fields[#fields + 1], fields[#fields + 2] = 'node' .. i, cmsgpack.pack(w.nodes[i])
  end
  for _, part in ipairs(more or {}) do
    fields[#fields + 1] = part
  end
  redis.call('HSET', w.key, unpack(fields))
  w.changed = {}
end

-- Node I has perhaps something to do: before all others, unless it is in line.
local function push(w, i)
  for _, other in ipairs(w.todo) do
    if other == i then return end
  end
  table.insert(w.todo, 1, i)
end

local function pop(w, i)
  for at, other in ipairs(w.todo) do
    if other == i then return table.remove(w.todo, at) end
  end
end

-- One more member of node I has ended; a failure may stop it.
local function count_end(w, i, failed)
  local v = node(w, i)
  v[N.ended] = v[N.ended] + 1
  if failed and v[N.on_failure] == 'stop' then v[N.failed] = 1 end
  change(w, i)
  push(w, i)
end

local admit_job, end_plan, run_plan, new_work, work_of
do -- (a chunk of Lua has 200 locals at the most)
  local LOOK = 0.5 -- what a look at a node counts, also one that only passes an end on: nodes may be nested deeply
  local moved -- whether this verb has admitted or dropped a job: the first goes whatever it counts
  each_call(function() moved = false end)

  local function facts_of(job) return redis.call('HMGET', key('job', job), 'st', 'n', 'ends', 'res', 'pl', 'v', 'hp', 'wake') end

  -- Whether the job is more than this verb may still do: then it is the next one's first.
  local function too_much(plan, facts) return moved and facts[1] == 'waiting' and facts[5] == plan and LOOK + number(facts[2]) > allowance end

  -- A member whose turn has come: nil while it goes on, else whether it failed. One that was cancelled before its turn counts
  -- as failed, whatever has become of it since: retried, it is no member any more.
  admit_job = function(plan, job, facts)
    local k = key('job', job)
    facts = facts or facts_of(job)
    if facts[5] ~= plan then return true end
    if facts[1] == 'running' or facts[1] == 'paused' then return nil end -- by a verb that broke then
    if facts[1] ~= 'waiting' then return facts[1] ~= 'done' end
    mark(job)
    moved, allowance = true, allowance - LOOK
    redis.call('HSET', k, 'st', 'running')
    if facts[7] then redis.call('HDEL', k, 'hp') end
    event(job, stamp(), 'admitted', '')
    if facts[3] then
      redis.call('HDEL', k, 'ends')
      end_job(job, facts[3], facts[4], true)
      return facts[3] ~= 'done'
    end
    local count = steps_of(job, facts[2])
    allowance = allowance - count
    -- (Answers to claims that Redis has lost may be there.)
    if count == 0 or number(facts[6]) > 0 or facts[8] then need_turn(job) end
    if facts[8] then redis.call('HDEL', k, 'wake') end
    follow_all(job, 'running', facts[2])
  end

  -- Cancelled without a word to the plan. One that was retried, or another under its id, is no member.
  local function drop_job(plan, job, facts)
    if facts[1] == 'waiting' and facts[5] == plan then
      moved, allowance = true, allowance - LOOK - number(facts[2])
      end_job(job, 'cancelled', '', true)
    end
  end

  end_plan = function(plan, failed)
    local state, k = failed and 'failed' or 'done', key('plan', plan)
    redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'plan', plan, 'state', state)
    redis.call('PEXPIRE', k, A.retention_ms)
    redis.call('HSET', k, 'st', state, 'todo', '', 'now', '') -- last: until then it ends once more
    redis.call('ZREM', P .. 'plans', plan)
  end

  -- What node I, the first in line, has to do: its next child, or its own end.
  local function step_on(plan, w, i)
    allowance = allowance - LOOK
    local v = node(w, i)
    local k = v[N.admitted]
    local dropping = v[N.dropped] == 1 or (v[N.failed] == 1 and v[N.mode] == 'fixed')
    if v[N.ended] >= v[N.children] then
      if v[N.parent] < 0 then
        flush(w, '') -- with what it ends by in `todo`
        end_plan(plan, v[N.failed] == 1)
        w.todo, w.over = {}, true
      else
        pop(w, i)
        count_end(w, int(v[N.parent]), v[N.failed] == 1 and v[N.dropped] ~= 1)
      end
      return
    end
    if k >= v[N.children] or not (dropping or v[N.mode] ~= 'fixed' or v[N.ended] == k) then
      pop(w, i)
      return
    end
    local c = redis.call('HGET', w.key, 'c' .. i .. '.' .. int(k))
    local id, inner = string.sub(c, 2), string.sub(c, 1, 1) == 'n'
    local facts = not inner and facts_of(id)
    if facts and too_much(plan, facts) then
      allowance = 0
      return
    end
    v[N.admitted] = k + 1
    change(w, i)
    if inner then
      if dropping then
        node(w, id)[N.dropped] = 1
        change(w, id)
      end
      push(w, id)
    elseif dropping then
      drop_job(plan, id, facts)
      v[N.ended] = v[N.ended] + 1
      w.far[3] = w.far[3] + 1
    else
      w.far[1] = w.far[1] + 1
      flush(w, 'admit|' .. i .. '|' .. id)
      local failed = admit_job(plan, id, facts)
      if failed ~= nil then
        w.far[2] = w.far[2] + 1
        count_end(w, i, failed)
      end
    end
  end

  -- The plan goes on as far as this verb may: gives whether it is done with for now.
  run_plan = function(plan, w)
    while #w.todo > 0 and allowance > 0 do
      step_on(plan, w, w.todo[1])
    end
    if w.over then return true end
    flush(w, '')
    if #w.todo > 0 then
      if redis.call('ZADD', P .. 'plans', int(clock()), plan) == 1 then redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'plan', plan, '', '' })) end
      return false
    end
    if w.had then redis.call('ZREM', P .. 'plans', plan) end
    return true
  end

  -- What stands of a plan, whether it runs or not.
  new_work = function(plan)
    local k = key('plan', plan)
    local f = redis.call('HMGET', k, 'todo', 'far')
    local w = { key = k, nodes = {}, changed = {}, todo = {}, far = {}, had = f[1] and f[1] ~= '' }
    for i in string.gmatch(f[1] or '', '%d+') do
      w.todo[#w.todo + 1] = i
    end
    for n in string.gmatch(f[2] or '0|0|0', '%d+') do
      w.far[#w.far + 1] = tonumber(n)
    end
    works[plan] = w
    return w
  end

  -- … of one that runs; nil where there is none. What a verb that broke was doing is done first.
  work_of = function(plan)
    local w = works[plan]
    if w then return not w.over and w or nil end
    local f = redis.call('HMGET', key('plan', plan), 'st', 'now', 'half')
    if f[1] ~= 'running' or (f[3] and f[3] ~= '') then return nil end
    w = new_work(plan)
    local what, i, job = string.match(f[2] or '', '^(%a+)|(%d+)|(.*)$')
    if what then
      local failed = nil
      if what == 'admit' then
        failed = admit_job(plan, job)
      else
        local g = redis.call('HMGET', key('job', job), 'st', 'pl')
        if g[2] == plan and ENDED[g[1]] then failed = g[1] ~= 'done' end
      end
      if failed ~= nil then
        w.far[2] = w.far[2] + 1
        count_end(w, i, failed)
      end
      flush(w, '')
    end
    return w
  end
end

-- A plan that has something left to do goes on; gives whether it is done with for now.
go_on = function(plan)
  local w = work_of(plan)
  if not w then -- it has ended, or is not there yet
    if redis.call('HEXISTS', key('plan', plan), 'half') == 0 then redis.call('ZREM', P .. 'plans', plan) end
    return true
  end
  redis.call('PERSIST', w.key) -- (one that was extended after its end)
  if not run_plan(plan, w) then return false end
  redis.call('ZREM', P .. 'plans', plan)
  return true
end

-- A member that was admitted is about to end: noted before that is written. Gives whether there is a plan to be told of it.
about_to_end = function(plan, i, job)
  local w = work_of(plan)
  if not w then return false end
  flush(w, 'end|' .. i .. '|' .. job)
  return true
end

-- … and has ended: on to what comes next.
member_ended = function(plan, i, failed)
  local w = work_of(plan)
  -- A worker waits for this. Where somebody else is at the plan, what this end asks for goes first all the same.
  allowance = math.min(allowance, w.had and 5 or AT_ONCE / 2)
  w.far[2] = w.far[2] + 1
  count_end(w, i, failed)
  run_plan(plan, w)
end
