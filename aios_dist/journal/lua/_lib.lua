-- Shared by every verb; the loader puts it in front of each. No side effects of its own.
--
-- KEYS 1 is the fleet's prefix ("aios:{name}:"), ARGV 1 one MessagePack map with the fields that the
-- verb's header names. Blobs (requests, outcomes, records) are opaque here: Python encodes them.
--
-- As functions the verbs are loaded once, and what stands outside of them outlives a call. So a part that keeps something says so by
-- `each_call`, which sets all of it anew; every verb begins with that (start_call). Tests hold both.
--
-- job:ID   st state, n steps asked for, v outcomes written (none: 0), rec digest of the record (24 characters) and the record,
--          pl/pn plan and its node, up/uo/uc usage, ue how much of up and uo is estimated, res result, t0/t1 times,
--          h<N> head of step N, q<N> its request, o<N> its outcome, ht the head of the job's turn,
--          e<N> the error of its last failed try, l<N> lane and model of a step that went to another model,
--          wake a turn that waits for the end of a pause or for the plan, bad why a worker could not read it,
--          g|NAME "first|next" and g|NAME|K signals that came before anyone waited for them,
--          gk "count|bytes" of these, gi|ID signals that came, who tenant and agent ("tenant|agent"),
--          bt/bm/ob budget in tokens and micro-money and what to do then, um micro-money spent (both with decimals),
--          u|TOKEN the usage of an answer that came too late counts: that of this claim
--          dg what the program's state is proven by, see chain below; half: being submitted; hp: with its plan, see staged,
--          us µs in calls, pr priority, dl deadline in s, xs expected steps, pp place in an agent-first plan ("node|place|places|jobs"),
--          ta when it was last asked to be retried: what counts from the submission counts from then; of the plan that it belonged to
--          before,
--          why a pause's reason, ends the end of turn 0 of a job not admitted, from what it is a fork of,
--          ch the code of its agent that its last turn ran with, cn how many steps there were then (a release that knows no codes adds some
--          and leaves both), cw the code before it was resumed from an earlier step and nobody has run it since,
--          pk while its program does not fit that: the need of the code that does, or "-" ("limit": while it would hold too much),
--          z<E>|h<N>, z<E>|q<N>, z<E>|o<N> what it has forgotten, zn how often, zs while that goes on, zd who asked last, see rewind,
--          x and 16 bytes, an address: a text that requests and outcomes refer to, see _texts; tb bytes of all of these, where it is counted
--          sw the first step that has still to follow the job's state, see _sweep, og orders of outcomes that nothing has any more
-- head     one array, see heads.py, which declares it and writes what stands before this: H, unpacked and new_head
-- ev:ID    list of the job's events; none while it only waits, see first_events
-- A million jobs may wait: what other fields imply is none of its own.

local P, A -- of this call: the prefix, the fields
local tickets -- lane, job, step, lane, job, step, …: what the caller is to publish
local marked, wrote, left_marked -- see mark

local each_call, start_call
do -- (a chunk of Lua has 200 locals at the most)
  local set_anew = {}
  each_call = function(set) set_anew[#set_anew + 1] = set end
  start_call = function(keys, args)
    P, A = keys[1], cmsgpack.unpack(args[1])
    for _, set in ipairs(set_anew) do
      set()
    end
  end
end

each_call(function()
  tickets = {}
  marked, wrote, left_marked = {}, false, {}
end)

local TURN = 't'

local function key(kind, id) return P .. kind .. ':' .. id end
local function int(n) return string.format('%.0f', n) end

-- What stands in Redis may be anything: what is no number is 0, and stops nobody.
local function number(v) return tonumber(v or '0') or 0 end

-- Adds to a field of a hash; one that is no number begins anew.
local function add(command, k, field, by)
  local now = redis.pcall(command, k, field, by)
  if type(now) == 'table' and now.err then
    redis.call('HDEL', k, field)
    now = redis.call(command, k, field, by)
  end
  return now
end

local clock, stamp
do -- (a chunk of Lua has 200 locals at the most)
  local time, last_stamp
  each_call(function()
    time, last_stamp = nil, nil
  end)

  -- µs since the epoch on Redis' clock: what leases and timers end by. It stands still while a verb runs.
  clock = function()
    if not time then
      local t = redis.call('TIME')
      time = t[1] * 1000000 + t[2]
    end
    return time
  end

  -- The same, but never twice in a fleet and never backwards: the order of becoming ready.
  stamp = function()
    last_stamp = last_stamp or number(redis.call('GET', P .. 'clock'))
    last_stamp = math.max(clock(), last_stamp + 1)
    redis.call('SET', P .. 'clock', int(last_stamp))
    return last_stamp
  end
end

local bounded, micros_of
do -- (a chunk of Lua has 200 locals at the most)
  -- Numbers from outside: no field overflows, nothing is less than nothing.
  local MOST = 1e12
  bounded = function(n)
    n = tonumber(n) or 0
    if n ~= n then n = 0 end
    return math.floor(math.max(0, math.min(MOST, n)))
  end

  -- Millionths of money, to a millionth of one: a call may cost less than the smallest of them. Rounded at each sum, so that
  -- ten tenths are one; as text without an exponent.
  micros_of = function(n)
    n = tonumber(n) or 0
    if n ~= n then n = 0 end
    return math.floor(math.max(0, math.min(MOST, n)) * 1e6 + 0.5) / 1e6
  end
end
local function decimal(n) return (string.gsub(string.format('%.6f', n), '%.?0+$', '')) end

-- A job is marked before the first write that concerns it; the last write of the verb takes the marks away
-- (_mend). What a verb that stopped half-way has left is so known at once. `wrote`: it has done so; `left_marked`: marks that
-- stay, since the job is still to be mended.
local function mark(job)
  if not marked[job] then
    marked[job] = true
    redis.call('ZADD', P .. 'dirty', int(clock()), job)
    wrote = true
  end
end

-- How many steps a job can have, whatever its hash says: no loop is longer.
local function steps_of(job, n) return math.min(bounded(n), redis.call('HLEN', key('job', job))) end

-- The head of a step; nil where there is none, or none that can be read (_mend then sets the job aside).
local function head(job, step) return unpacked(redis.call('HGET', key('job', job), 'h' .. step)) end

local function put(job, step, h)
  mark(job)
  redis.call('HSET', key('job', job), 'h' .. step, cmsgpack.pack(h))
end

-- What a program has seen is its job's birth (random, at submission or fork), the retries since, and a digest over
-- every outcome written and every step asked for: "BIRTH[~RETRY][.DIGEST]". Numbers repeat after a retry, under an id
-- that is used again, on a Redis that was put back; this does not. BIRTH begins with "d" where the agent is data.
local function chain(was, what) return string.match(was, '^[^.]*') .. '.' .. string.sub(redis.sha1hex(was .. ' ' .. what), 1, 16) end
local function basis(job) return redis.call('HGET', key('job', job), 'dg') or '' end

-- A job has ended: the stream is for those who hear of all jobs (Flower, releases before the channel), and lasts; the channel for who
-- waits for this one, and looks at it where he may have missed a word.
local function tell_end(job, state)
  local life = string.match(basis(job), '^[^.]*')
  redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'job', job, 'state', state, 'life', life)
  redis.call('PUBLISH', key('end', job), state)
end

-- A job that is written with a plan in slices points to what is not whole yet: `hp` names a field of its plan (`half`, or x<DIG> of
-- an extension) that is empty or gone when all is there. Gives whether the job is there, else whether it is still to come.
local function staged(plan, points)
  if not plan then return false, false end
  local p = redis.call('HMGET', key('plan', plan), 'st', points)
  local coming = p[2] and p[2] ~= ''
  return p[1] and not coming, p[1] and coming
end

-- A job that nobody sees yet.
local function hidden(job)
  local f = redis.call('HMGET', key('job', job), 'half', 'hp', 'pl')
  return f[1] and true or f[2] and not (staged(f[3], f[2]))
end

local function birth_of(dg) return string.match(dg, '^[^.~]*') end

local DIGEST = 24 -- aios_dist.model.jobs has the same

local function packed_event(at, what, step, extra) return cmsgpack.pack({ int(at), what, tostring(step), extra or '' }) end

-- What the hash of a job says of its events: when it was submitted, and when its steps became ready. While nothing
-- else has happened, it has no list of them.
local function first_events(job)
  local QUEUED = { llm = true, tool = true, turn = true }
  local f = redis.call('HMGET', key('job', job), 't0', 'n')
  if not f[1] then return {} end
  local events, ready = { packed_event(f[1], 'submitted', '') }, {}
  local function look(step)
    local h = head(job, step)
    if h and h[H.ready] > 0 and QUEUED[h[H.kind]] then ready[#ready + 1] = { h[H.ready], step, h[H.label] } end
  end
  for step = 0, steps_of(job, f[2]) - 1 do
    look(step)
  end
  look(TURN)
  table.sort(ready, function(a, b) return a[1] < b[1] end)
  for _, r in ipairs(ready) do
    events[#events + 1] = packed_event(r[1], 'ready', r[2], r[3])
  end
  return events
end

-- A job of more steps than a verb looks at: those that follow its state come later, see _sweep.
local STEPS_AT_ONCE = 30 -- 2 ms, and hardly ever 4
local function wide(n) return number(n) > STEPS_AT_ONCE end

-- Something happened to a job. `submitted` (but a fork's, which says of what) and `ready` begin no list; any other
-- event does, with those before it: numbers stay what they were.
local function event(job, at, what, step, extra)
  mark(job)
  local list, new = key('ev', job), packed_event(at, what, step, extra)
  local implied = what == 'ready' or (what == 'submitted' and not extra)
  if redis.call('RPUSHX', list, new) == 0 and not implied then
    for _, before in ipairs(first_events(job)) do
      redis.call('RPUSH', list, before)
    end
    redis.call('RPUSH', list, new)
  end
  redis.call('PUBLISH', list, what)
end

local function member(job, step) return job .. '/' .. step end
-- A lease is its claim's: the token is random, where numbers come again on a Redis that was put back.
local function lease_of(job, step, h) return job .. '/' .. step .. '#' .. int(h[H.attempt]) .. '.' .. h[H.token] end
local function split(m) return string.match(m, '^(.*)/([^/]*)$') end
local function split_lease(lease) return string.match(lease, '^(.*)/([^/]*)#%d+%.(.*)$') end

local function ticket(lane, job, step)
  tickets[#tickets + 1] = lane
  tickets[#tickets + 1] = job
  tickets[#tickets + 1] = step
end

local function due_later(job, after_us) redis.call('ZADD', P .. 'due', int(clock() + after_us), job) end
