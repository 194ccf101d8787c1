-- reap: one bounded pass of the reconciler: what time or a crash has left behind moves again.
-- ARGV 1: page, attempts, lost_outcome, slept_outcome, late_outcome, lanes, due_us, cursor, lease_us, quiet_us, retention_ms
--   page: the most entries of each kind in this pass; lost_outcome: the outcome of a step given up,
--   slept_outcome: of a sleep that is over; late_outcome: the error of a job past its deadline
--   quiet_us: after so long without a pass, leases may have ended because Redis was away: see below
--   lanes: the lanes whose ready steps are counted; cursor: score in `open` from which jobs are looked at
-- returns: {moved, ready steps by lane, of them strays by lane, next cursor, next time in µs or 0, flat list of job and
--   why for what could not be moved, {job, step, token, worker, state since, agent, kind, label, attempt, life of the job} of
--   each lease that has ended}
-- flags: allow-oom
-- include: waiting, order, limits, plan, sweep, members, mend
local now = clock()
local moved = 0
local broken, lost = {}, {}

-- One entry that cannot be read stops no other: its job is marked, and `walk` looks at it.
local function each(job, what)
  local ok, why = pcall(function()
    what()
    let_in_freed() -- what waits is counted below, and who is let in sets timers
  end)
  if not ok then
    broken[#broken + 1], broken[#broken + 2] = job, type(why) == 'table' and why.err or tostring(why)
    redis.call('ZADD', P .. 'dirty', int(now), job)
    left_marked[job] = true
    works = {} -- may be ahead of what stands
  end
end

-- After an outage the leases of workers that live and call have ended too. Before anything is taken from anyone, all
-- have the time of a lease to renew. Redis' own clock tells: also a worker that has only just started knows.
local last, spare = string.match(redis.call('GET', P .. 'beat') or '', '^(%d+)|(%d+)$')
spare = tonumber(spare or '0')
if last and now - last > A.quiet_us then spare = now + A.lease_us end
redis.call('SET', P .. 'beat', int(now) .. '|' .. int(spare))

-- Ended leases: back with the old rank, or given up after too many lost workers.
local ended = now < spare and {} or redis.call('ZRANGEBYSCORE', P .. 'leases', 0, int(now), 'LIMIT', 0, A.page)
for _, lease in ipairs(ended) do
  if exhausted() then break end -- (a turn that is given up ends its job)
  local job, step, token = split_lease(lease)
  if job then mark(job) end
  redis.call('ZREM', P .. 'leases', lease)
  each(job or lease, function()
    local h = job and head(job, step)
    if not h or h[H.state] ~= 'leased' or h[H.token] ~= token then
      forget_lease(lease) -- of a job that has expired, or cannot be read
    else
      moved = moved + 1
      h[H.lost] = h[H.lost] + 1
      settle(job, h, nil)
      leave(h, job, step, h[H.est] or 0, false) -- what it took nobody knows: the estimate stands
      local told = { job, step, token, h[H.worker], '', string.match(who(job) or '', '|(.*)$') or '', h[H.kind], h[H.label], int(h[H.attempt]) }
      local state = redis.call('HGET', key('job', job), 'st')
      if state == 'paused' then
        h[H.state] = step == TURN and 'idle' or 'parked'
        if step == TURN then redis.call('HSET', key('job', job), 'wake', 1) end
        put(job, step, h)
      elseif state ~= 'running' then
        h[H.state] = 'dropped'
        put(job, step, h)
      elseif h[H.lost] >= A.attempts then
        give_up(job, step, h, A.lost_outcome, A.due_us)
      else
        back(job, step, h, stamp(), 'lease ended', true)
      end
      told[5], told[10] = h[H.state], string.match(basis(job), '^[^.]*')
      lost[#lost + 1] = told
    end
  end)
end

-- Steps whose time has come.
for _, m in ipairs(redis.call('ZRANGEBYSCORE', P .. 'timers', 0, int(now), 'LIMIT', 0, A.page)) do
  local job, step = split(m)
  if job and step ~= '!' then mark(job) end
  redis.call('ZREM', P .. 'timers', m)
  each(job or m, function()
    if step == '!' then
      local model = string.match(job, '^model:(.*)$')
      divert_held(model)
      let_in(model)
    else
      local h = job and head(job, step)
      local state = h and redis.call('HGET', key('job', job), 'st')
      if h and step ~= TURN and ((h[H.state] == 'ready' and state ~= 'running') or (h[H.state] == 'timed' and ENDED[state])) then
        follow(job, step, h, state) -- it has not yet
      elseif h and h[H.state] == 'ready' then
        moved = moved + 1
        back(job, step, h, stamp(), 'time')
      elseif h and h[H.state] == 'timed' then
        moved = moved + 1
        write_outcome(job, step, h, true, A.slept_outcome, stamp())
        need_turn(job)
      end
    end
  end)
end

-- Jobs past their deadline.
for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', 0, int(now), 'LIMIT', 0, A.page)) do
  if exhausted() then break end
  mark(job)
  redis.call('ZREM', P .. 'deadlines', job)
  each(job, function()
    if hidden(job) then
      redis.call('ZADD', P .. 'deadlines', int(now + 1000000), job) -- its plan is not there yet
    elseif end_job(job, 'failed', A.late_outcome) then
      moved = moved + 1
    end
  end)
end

-- Turns that are due and that nobody ran.
for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', 0, int(now), 'LIMIT', 0, A.page)) do
  redis.call('ZADD', P .. 'due', int(now + A.due_us), job)
  each(job, function()
    if redis.call('HGET', key('job', job), 'st') == 'running' then
      if need_turn(job) then moved = moved + 1 end
    else
      redis.call('ZREM', P .. 'due', job)
    end
  end)
end

-- One page of the open jobs: a running job without an open step needs a turn (invariant 4).
local cursor = '0'
local jobs = redis.call('ZRANGEBYSCORE', P .. 'open', '(' .. A.cursor, '+inf', 'WITHSCORES', 'LIMIT', 0, A.page)
for i = 1, #jobs, 2 do
  local job = jobs[i]
  cursor = jobs[i + 1]
  each(job, function()
    local facts = redis.call('HMGET', key('job', job), 'st', 'n', 'v')
    if not facts[1] then
      redis.call('ZREM', P .. 'open', job)
    elseif facts[1] == 'running' and number(facts[2]) <= number(facts[3]) and not redis.call('ZSCORE', P .. 'due', job) then
      local h = head(job, TURN)
      if not h or (h[H.state] ~= 'ready' and h[H.state] ~= 'leased') then
        moved = moved + 1
        due_later(job, A.due_us)
        need_turn(job)
      end
    end
  end)
end
if #jobs < 2 * A.page then cursor = '0' end

redis.call('ZREMRANGEBYSCORE', P .. 'ended', 0, int(now - A.retention_ms * 1000))
redis.call('ZREMRANGEBYSCORE', P .. 'dead', 0, int(now - A.retention_ms * 1000))
for _, lane in ipairs(A.lanes) do
  redis.call('ZADD', P .. 'lanes', 0, lane)
end
local waiting, strays = {}, {}
for i, lane in ipairs(A.lanes) do
  waiting[i], strays[i] = waiting_on(lane, true), redis.call('ZCARD', key('stray', lane)) + redis.call('ZCARD', key('astray', lane))
end
local next_time = 0
for _, set in ipairs({ 'timers', 'leases', 'deadlines' }) do
  local first = redis.call('ZRANGE', P .. set, 0, 0, 'WITHSCORES')
  local at = #first > 0 and tonumber(first[2])
  if at and set == 'leases' then at = math.max(at, spare) end
  if at and (next_time == 0 or at < next_time) then next_time = at end
end
redis.call('ZREMRANGEBYSCORE', P .. 'serving', 0, int(now))
return { moved, waiting, strays, cursor, int(next_time), broken, lost }
