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

local by_caller -- who has called this verb goes on: the reconciler looks only when nobody has for a moment
local start_over, exhausted, follow, follow_page, stands_at
local in_line, places_of -- _mend
do -- (a chunk of Lua has 200 locals at the most)
  local LOOK, CHANGE, LIMITED = 2, 4, 4 -- what a step takes that has followed; one that does so now, beside; and one that a limit may hold
  local MOST_TAKEN = STEPS_AT_ONCE * (LOOK + CHANGE)
  local PATIENCE = 1000000 -- µs
  local taken -- by this verb
  each_call(function()
    by_caller, taken = false, 0
  end)

  -- Whether this verb has let as many steps follow as one may: the rest of its jobs is for the next one.
  exhausted = function() return taken >= MOST_TAKEN end

  -- A step that was dropped, or has failed, is asked for anew.
  start_over = function(h)
    h[H.state], h[H.order], h[H.ended], h[H.tries], h[H.lost], h[H.back] = 'pending', 0, 0, 0, 0, 0
    h[H.first] = 0 -- patience begins anew
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
      if s == 'parked' then
        back(job, step, h, stamp(), 'resumed')
        return true
      end
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
    if rank then
      h = head(job, step) -- what others of its job have done may have changed it
      h[H.rank] = rank
      put(job, step, h)
      if h[H.state] == 'ready' and move(job, step, h) then return true, true end
    end
    -- While it was stopped, a worker of a release without slices has taken it off its line and let it be.
    if state == 'running' and h[H.state] == 'ready' and not in_line(job, step, h[H.lane]) then
      taken = taken + (f and LIMITED or 0)
      if places_of(job, step, h) == 0 then
        if place(job, step, h, true) then ticket(h[H.lane], job, step) end
        return true
      end
    end
    return rank ~= nil
  end

  -- So many of the steps as one verb may. Gives the first that is left, and how many have another place in a line.
  follow_page = function(job, from, count, state)
    local k, at, moved, most = key('job', job), from, 0, taken + MOST_TAKEN
    local f = wide(count) and redis.call('HMGET', k, 'pp', 'pr', 't0', 'ta')
    while at < count and taken < most do
      local fields = {}
      for step = at, math.min(at + 50, count) - 1 do
        fields[#fields + 1] = 'h' .. int(step)
      end
      for _, packed in ipairs(redis.call('HMGET', k, unpack(fields))) do
        local h, changed, placed = unpacked(packed), false, false
        if h then
          changed, placed = follow(job, int(at), h, state, f)
        elseif state ~= 'running' and redis.call('HEXISTS', P .. 'aside', job) == 0 then
          error('the head of step ' .. int(at) .. ' cannot be read')
        end
        at, taken = at + 1, taken + LOOK + (changed and CHANGE + (f and #limits_of(job, h) > 0 and LIMITED or 0) or 0)
        if placed then moved = moved + 1 end
        if taken >= most then break end
      end
    end
    return at, moved
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
      local _, moved = follow_page(job, 0, count, state)
      return false, moved
    end
    if string.match(redis.call('HGET', key('job', job), 'sw') or '', '^%a') then return stands_at(job, 0, count, state, 'm'), 0 end
    local at, moved = 0, 0
    if not exhausted() then
      at, moved = follow_page(job, 0, count, state)
    end
    return stands_at(job, at, count, state), moved
  end
end
