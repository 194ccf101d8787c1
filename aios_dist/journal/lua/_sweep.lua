-- The steps of a job follow its state, a slice at a time where there are many. Shared by all that include _plan.
--
-- A verb changes the state of a job first, for all to see; then each step is brought in line with it (follow). Those of a job of up
-- to STEPS_AT_ONCE steps are, in the same verb. Of a wider one the first are; `sw` of its hash says which is the next, and until
-- that is gone the job stands in `sweeps`: who has called the verb goes on (sweep.lua), else the reconciler. Where a step is to be
-- follows from the state alone, so another verb in between begins anew from the first step. What meets a step that has not
-- followed yet (claim, reap) lets it do so.
--
-- sweeps   jobs whose steps have still to follow, by when the reconciler is to look
-- sw       the first step that has still to; behind "m" (or "o", where one before it moves the job) a broken verb is mended on the way (_mend)

local by_caller = false     -- who has called this verb goes on: the reconciler looks only when nobody has for a moment
local start_over, run_again, exhausted, follow, catch_up, follow_on, stands_at, left_to_mend
do   -- (a chunk of Lua has 200 locals at the most)
local LOOK, CHANGE = 1, 4   -- what a step takes that has followed, and one that does so now, beside
local MOST_TAKEN = STEPS_AT_ONCE * (LOOK + CHANGE)
local PATIENCE = 1000000    -- µs
local taken = 0             -- by this verb

-- Whether this verb has let as many steps follow as one may: the rest of its jobs is for the next one.
exhausted = function() return taken >= MOST_TAKEN end

-- A failed step runs again: who reports the failure once more is fenced, its usage has counted, and it begins where it was asked for.
-- `fields`: to be written with its head.
local function run_anew(job, step, h, fields)
  if h[H.token] ~= '' then fields[#fields + 1], fields[#fields + 2] = 'u|' .. h[H.token], 1 end
  h[H.token] = ''
  local first = redis.call('HGET', key('job', job), 'l' .. int(step))
  if first then h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$') end
  redis.call('ZREM', P .. 'dead', member(job, int(step)))
end

-- A step that was dropped, or has failed, is asked for anew.
start_over = function(h)
  h[H.state], h[H.order], h[H.ended], h[H.tries], h[H.lost], h[H.back] = 'pending', 0, 0, 0, 0, 0
  h[H.first] = 0   -- patience begins anew
end

-- Failed steps of a wide job run again. What is answered keeps its order: `og` counts those that are left out.
local function undo(job, numbers)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'v', 'og', 'dg')
  local v, left_out, again, fields, gone = number(f[1]), number(f[2]), {}, {}, { 'rt' }
  local seen = {}
  mark(job)
  for _, step in ipairs(numbers) do
    local h = not seen[step] and head(job, int(step))
    seen[step] = true
    if h and h[H.state] == 'failed' then
      run_anew(job, step, h, fields)
      start_over(h)
      fields[#fields + 1], fields[#fields + 2] = 'h' .. int(step), cmsgpack.pack(h)
      gone[#gone + 1] = 'o' .. int(step)
      again[#again + 1] = { int(step), h }
    end
  end
  local which = {}
  for i, pair in ipairs(again) do which[i] = pair[1] end
  redis.call('HSET', k, 'v', int(v - #again), 'og', int(left_out + #again), 'dg', chain(f[3] or '', 'again ' .. table.concat(which, ' ')), unpack(fields))
  redis.call('HDEL', k, unpack(gone))
  for _, pair in ipairs(again) do begin(job, pair[1], pair[2]) end
end

-- Steps run again: those named, and those that were dropped. What is answered stays, in its order, without them. (Of a wide job
-- those that were dropped follow its state.)
run_again = function(job, numbers)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'n', 'dg', 'og')
  if wide(facts[1]) or facts[3] then return undo(job, numbers) end
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
      run_anew(job, step, h, fields)
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
    start_over(h)
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

-- The rank that a waiting or held step has by the job's priority and submission of now; nil where it has an order of its own.
local function rank_now(h, f)
  if f[1] or h[H.since] == SINCE.round or (h[H.level] == 0 and h[H.since] ~= SINCE.submitted) then return nil end
  return h[H.base] + (h[H.since] == SINCE.submitted and number(f[4] or f[3]) or h[H.ready]) - h[H.level] * number(f[2])
end

-- A step is brought in line with the state of its job. Gives whether anything changed, and whether it has another place in a line.
follow = function(job, step, h, state, f)
  local s = h[H.state]
  local rank = f and (s == 'ready' or s == 'parked' or s == 'leased') and rank_now(h, f)
  if rank == h[H.rank] then rank = nil end
  if rank and not (s == 'ready' and state == 'running') then h[H.rank] = rank end
  if state == 'running' then
    if s == 'parked' then back(job, step, h, stamp(), 'resumed') return true end
    if s == 'dropped' or s == 'pending' then
      start_over(h)
      begin(job, step, h)
      return true
    end
  elseif state == 'paused' then
    if s == 'ready' then
      set_aside(job, step, h)
      h[H.state] = 'parked'
      put(job, step, h)
      return true
    elseif s == 'dropped' or s == 'pending' then
      start_over(h)
      begin(job, step, h, true)
      return true
    end
  elseif ENDED[state] then
    if OPEN[s] then
      set_aside(job, step, h)
      h[H.state] = 'dropped'
      put(job, step, h)
      return true
    elseif s == 'leased' then
      redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'drop', job, tostring(step), h[H.worker] }))
    end
    return false
  end
  if not rank then return false end
  h = head(job, step)   -- what others of its job have done may have changed it
  h[H.rank] = rank
  put(job, step, h)
  return true, h[H.state] == 'ready' and move(job, step, h)
end

-- So many of the steps as one verb may. Gives the first that is left, and how many have another place in a line.
local function page(job, from, count, state)
  local k, at, moved, cost = key('job', job), from, 0, 0
  local f = wide(count) and redis.call('HMGET', k, 'pp', 'pr', 't0', 'ta')
  while at < count and cost < MOST_TAKEN do
    local fields = {}
    for step = at, math.min(at + 50, count) - 1 do fields[#fields + 1] = 'h' .. int(step) end
    for _, packed in ipairs(redis.call('HMGET', k, unpack(fields))) do
      local h, changed, placed = unpacked(packed), false, false
      if h then changed, placed = follow(job, int(at), h, state, f)
      elseif state ~= 'running' then error('the head of step ' .. int(at) .. ' cannot be read') end
      at, cost = at + 1, cost + LOOK + (changed and CHANGE or 0)
      if placed then moved = moved + 1 end
      if cost >= MOST_TAKEN then break end
    end
  end
  taken = taken + cost
  return at, moved
end

-- One step that somebody comes to before it has followed. Gives its head.
catch_up = function(job, step, h, state)
  if step == TURN then return h end
  follow(job, step, h, state)
  return head(job, step)
end

-- The steps before this one have followed. Gives whether there are others; with the last a job that has ended begins to expire.
stands_at = function(job, at, count, state, how)
  local k = key('job', job)
  mark(job)
  if at < count then
    redis.call('HSET', k, 'sw', (how or '') .. int(at))
    local new = redis.call('ZADD', P .. 'sweeps', int(clock() + (by_caller and PATIENCE or 0)), job) == 1
    if new and not by_caller then redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'sweep', job, '', '' })) end
    return true
  end
  if redis.call('HDEL', k, 'sw') == 0 then return false end
  redis.call('ZREM', P .. 'sweeps', job)
  if ENDED[state] then
    redis.call('PEXPIRE', k, A.retention_ms)
    redis.call('PEXPIRE', key('ev', job), A.retention_ms)
  end
  return false
end

-- The job is in this state from now on: its steps follow. `n`: how many it has. Gives whether there are some left, and how many have
-- another place in a line.
follow_all = function(job, state, n)
  local count = steps_of(job, n)
  if count <= STEPS_AT_ONCE then
    local _, moved = page(job, 0, count, state)
    return false, moved
  end
  if string.match(redis.call('HGET', key('job', job), 'sw') or '', '^%a') then return stands_at(job, 0, count, state, 'm'), 0 end
  local at, moved = 0, 0
  if not exhausted() then at, moved = page(job, 0, count, state) end
  return stands_at(job, at, count, state), moved
end

-- A slice more of it. Gives whether there are some left, and how many have another place in a line.
follow_on = function(job)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'sw', 'st', 'n')
  local how, at = string.match(f[1] or '', '^(%a?)(%d+)$')
  if not at then
    if f[1] then mark(job); kept[job] = true end   -- `walk` sets it aside
    redis.call('ZREM', P .. 'sweeps', job)
    return false, 0
  end
  local count = steps_of(job, f[3])
  if how ~= '' then return left_to_mend(job, how, tonumber(at)), 0 end
  local next_, moved = page(job, tonumber(at), count, f[2])
  return stands_at(job, next_, count, f[2]), moved
end
end
