-- What a verb that stopped half-way has left, put right: at once by the verb itself (guarded), else by the reconciler from the marks
-- in `dirty`, else by its slow walk over all jobs.
--
-- A step's head says where the step stands; the sets follow from it. Whatever is written about steps is written so that
-- heads and counts change in one command, so that this holds after any write.

local on_error -- what else a verb undoes when it breaks (_new)
each_call(function() on_error = nil end)
local ABANDONED = 60000000 -- µs after which nobody goes on with what is half-submitted

-- Nothing of the job is left.
local function throw_away(job)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'n', 'half')
  mark(job)
  local function off(step)
    local h = head(job, step)
    if not h then return end
    take(job, step, h)
    unhold(job, step, h)
    redis.call('ZREM', P .. 'timers', member(job, step))
    redis.call('ZREM', P .. 'leases', lease_of(job, step, h))
  end
  if not string.find(f[2] or '', '|', 1, true) then -- (nothing of a wide fork that is being made waits anywhere)
    for step = 0, steps_of(job, f[1]) - 1 do
      off(step)
    end
  end
  off(TURN)
  for _, set in ipairs({ 'open', 'due', 'deadlines' }) do
    redis.call('ZREM', P .. set, job)
  end
  redis.call('UNLINK', k, key('ev', job))
  whos[job] = nil
end

local mend
do -- (a chunk of Lua has 200 locals at the most)
  -- On how many sets the step waits.
  places_of = function(job, step, h)
    local m, lane, tenant = member(job, step), h[H.lane], tenant_of(job)
    local count = 0
    local function look(set)
      if redis.call('ZSCORE', set, m) then count = count + 1 end
    end
    local function shelf(kind, name)
      look(key(kind, name))
      look(key(kind, name .. '|' .. tenant))
    end
    shelf('ready', lane)
    look(key('stray', lane))
    shelf('held', h[H.label])
    look(key('held', '@' .. tenant))
    look(key('held', '@' .. tenant .. '|' .. lane))
    for _, need in ipairs(redis.call('EXISTS', key('wanted', lane)) == 1 and needs_of(job, h) or {}) do
      shelf('held', '?' .. need)
    end
    look(P .. 'timers')
    return count
  end

  -- Whether it stands where most do.
  in_line = function(job, step, lane)
    return redis.call('ZSCORE', key('ready', compartment(lane, rules(lane).fair and tenant_of(job) or nil)), member(job, step))
  end

  -- Off every shelf, whatever of it was written.
  local function off_shelves(job, step, h)
    local m, lane, tenant = member(job, step), h[H.lane], tenant_of(job)
    local function shelf(kind, name, part)
      part = part or tenant
      redis.call('ZREM', key(kind, name), m)
      redis.call('ZREM', key(kind .. 'old', name), m)
      if redis.call('ZREM', key(kind, name .. '|' .. part), m) == 1 then count_on(kind, name, -1) end
      redis.call('ZREM', key(kind .. 'old', name .. '|' .. part), m)
      if redis.call('EXISTS', key(kind, name .. '|' .. part)) == 0 then redis.call('ZREM', key(kind .. 'by', name), part) end
    end
    not_in(job, m, h)
    redis.call('ZREM', key('stray', lane), m)
    shelf('ready', lane)
    shelf('held', h[H.label])
    shelf('held', '@' .. tenant, lane)
    for _, need in ipairs(needs_of(job, h)) do
      shelf('held', '?' .. need)
    end
  end

  local JOB_STATES = { running = true, waiting = true, paused = true, done = true, failed = true, cancelled = true }

  -- A packed head, not unpacked: most of those that the slow walk meets. Its state is the third entry, behind two short texts: kind and lane.
  local byte, sub, field_of
  each_call(function()
    byte, sub = string.byte, string.sub -- (none of them is there while a library is loaded)
  end)
  local function state_at(packed)
    local array, _, _, kind = byte(packed, 1, 4)
    local at = array == 220 and kind and kind - 160 + 5 -- a text of up to 31 bytes
    local lane = at and byte(packed, at)
    if not lane or kind < 160 or kind > 191 or lane < 160 or lane > 191 then return nil end
    return at + lane - 159, at
  end

  -- Whether nothing of it need be looked at: of a step that has its outcome, which waits nowhere, and of one that is ready and in
  -- line, where a claim finds what is wrong with it. (A lease that such a step has left ends by itself.)
  local function well(job, step, packed, running)
    if not packed then return false end
    local at, lane = state_at(packed)
    if not at then return false end
    local size, first = byte(packed, at, at + 1)
    if size == 164 and first == 100 or size == 166 and first == 102 then return true end -- the states of four letters with a d, of six with an f
    if not running or size ~= 165 or sub(packed, at + 1, at + 5) ~= 'ready' then return false end
    return in_line(job, step, sub(packed, lane + 1, at - 1)) and 'in line'
  end

  local FIRST = 8 -- heads that are read with the record: most jobs have no more
  local SPELLED = {
    __index = function(fields, step) -- spelled once: numbers become text slowly
      fields[step] = 'h' .. step
      return fields[step]
    end,
  }
  each_call(function() field_of = setmetatable({}, SPELLED) end)

  local function corrupt(why) error({ corrupt = why }) end
  local function read(heads, step, packed)
    heads[step] = unpacked(packed)
    if not heads[step] then corrupt('the head of step ' .. step .. ' cannot be read') end
  end

  local MOST_MENDED, MOST_LOOKED = 10, 150 -- steps, by one verb: of a wide job the next one goes on

  -- Puts a job right; gives a list of what was wrong, its plan, its state, how many steps it has looked at, and of a wide job the first that
  -- is left. `touched`: a verb broke over it, so what stands on shelves is put there anew. `part`: of a wide job, {from: step, open: whether
  -- one before it moves the job}; without it one that a verb broke over is left to `sweep`. An error that is {corrupt = why}: its own
  -- record cannot be read; any other is not the job's.
  mend = function(job, touched, part)
    local k, wrong = key('job', job), {}
    local f = redis.pcall('HMGET', k, 'st', 'n', 'v', 'pl', 'half', 'dg', 'ht', 'who', 'hp', 'h0', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'h7', 'bad', 'pk')
    if f.err then corrupt('its record is no hash') end
    if f[5] and number(string.match(f[5], '^%d+')) > clock() - ABANDONED then return wrong end -- a wide fork that is being made
    local there, coming = not f[5], false
    if there and f[9] then
      there, coming = staged(f[4], f[9])
    end
    if coming then -- with its plan, which comes to be whole or goes
      if redis.call('HEXISTS', key('plan', f[4]), f[9] .. '>') == 1 then throw_away(job) end
      return wrong
    end
    if not f[1] or not there then -- never written whole, or expired
      if redis.call('ZSCORE', P .. 'open', job) or f[5] or f[9] then wrong[1] = 'half written' end
      throw_away(job)
      return wrong
    end
    local state, count = f[1], tonumber(f[2])
    if not JOB_STATES[state] then corrupt('there is no state ' .. string.sub(state, 1, 20)) end
    if not count or (f[3] and not tonumber(f[3])) then corrupt('the count of its steps or outcomes is no number') end
    if count > MOST_AT_ONCE and count > redis.call('HLEN', k) then corrupt('it has not as many steps as it says') end
    if f[18] then corrupt(f[18]) end
    if not f[6] then corrupt('what its program has seen is not known') end
    whos[job] = f[8] or nil
    if f[19] and state ~= 'paused' then parked.no_more(job) end -- also one that a release has resumed which knows no parking
    local from, upto, read_now = 0, count, 0
    if wide(count) then
      local stands = redis.call('HGET', k, 'sw')
      if stands and not string.match(stands, '^%a?%d+$') then corrupt(stands) end
      if touched and not part then
        stands_at(job, 0, count, state, 'm')
        return wrong, f[4], state, 0
      elseif stands and not touched then -- its steps have still to follow: whoever comes sees to them
        if not redis.call('ZSCORE', P .. 'sweeps', job) then
          wrong[1] = 'nobody goes on with its steps'
          redis.call('ZADD', P .. 'sweeps', int(clock()), job)
        end
        return wrong, f[4], state, 0
      end
      from = part and part.from or 0
      upto = math.min(count, from + (touched and MOST_MENDED or MOST_LOOKED))
    end
    local heads, open = {}, part and part.open or false
    local function meet(step, packed)
      local so = not touched and well(job, step, packed, state == 'running')
      if not so then
        read(heads, step, packed)
        read_now = read_now + 1
      elseif so == 'in line' then
        open = true
      end
    end
    for step = from, math.min(FIRST, upto) - 1 do
      meet(step, f[9 + 1 + step])
    end
    local first = math.max(from, FIRST)
    while first < upto do -- one reply a page: the slow walk comes by every head there is
      local last, fields = math.min(first + MOST_AT_ONCE, upto), {}
      for step = first, last - 1 do
        fields[#fields + 1] = field_of[step]
      end
      for at, packed in ipairs(redis.call('HMGET', k, unpack(fields))) do
        meet(first + at - 1, packed)
        if read_now >= MOST_MENDED and wide(count) then
          upto = math.min(upto, first + at)
          break
        end
      end
      first = last
    end
    local last = upto == count
    if last and f[7] then read(heads, TURN, f[7]) end

    local function step_is(what, step) wrong[#wrong + 1] = 'step ' .. step .. ': ' .. what end
    local function look(step)
      local h = touched and head(job, step) or heads[step] -- (its order may be another now)
      if not h then return end
      local s = h[H.state]
      local lease = (s == 'leased' or h[H.token] ~= '') and lease_of(job, step, h)
      if s == 'leased' then
        if not redis.call('ZSCORE', P .. 'leases', lease) then
          step_is('leased without a lease', step)
          h[H.state] = 'ready'
          s = 'ready'
          settle(job, h, nil)
          leave(h, job, step, 0, false)
          put(job, step, h)
        elseif h[H.counted] ~= 0 and not redis.call('ZSCORE', key('inflight', h[H.label]), lease) then
          step_is('not counted in flight', step)
          redis.call('ZADD', key('inflight', h[H.label]), int(h[H.counted]), lease)
        end
        if h[H.capped] == 1 and not redis.call('ZSCORE', key('inflight', '@' .. tenant_of(job)), lease) then
          step_is('not counted in flight', step)
          redis.call('ZADD', key('inflight', '@' .. tenant_of(job)), int(h[H.started]), lease)
        end
      elseif lease and redis.call('ZREM', P .. 'leases', lease) == 1 then
        step_is(s .. ' with a lease', step)
      end
      local waits = s == 'ready' and state == 'running'
      local on = (s == 'ready' or s == 'timed') and places_of(job, step, h) or 0
      if state == 'running' then
        if waits and (on ~= 1 or touched) then
          local timed = redis.call('ZSCORE', P .. 'timers', member(job, step))
          if on ~= 1 then step_is('ready on ' .. on .. ' sets', step) end
          off_shelves(job, step, h)
          if not timed then
            if place(job, step, h, true) then ticket(h[H.lane], job, step) end
          end
        elseif s == 'timed' and on ~= 1 then
          step_is('a sleep without its timer', step)
          redis.call('ZADD', P .. 'timers', int(h[H.ready] + h[H.after]), member(job, step))
        elseif step ~= TURN and (s == 'pending' or s == 'parked' or s == 'dropped') then
          step_is(s .. ' in a running job', step)
          if s == 'parked' then
            back(job, step, h, stamp(), 'mended')
          else
            if s == 'dropped' then start_over(h) end
            begin(job, step, h)
          end
        end
        if s == 'ready' or s == 'leased' or s == 'timed' or s == 'waiting' then open = true end
      elseif s == 'ready' or (ENDED[state] and OPEN[s] and step ~= TURN) then
        step_is(s .. ' in a ' .. state .. ' job', step)
        off_shelves(job, step, h)
        redis.call('ZREM', P .. 'timers', member(job, step))
        h[H.state] = step == TURN and 'idle' or ENDED[state] and 'dropped' or 'parked'
        put(job, step, h)
        if step == TURN and state == 'paused' then redis.call('HSET', k, 'wake', 1) end
      end
    end
    if touched and wide(count) then -- (their order stays as it is, see undo)
      for step = from, upto - 1 do
        if heads[step][H.order] == 0 then redis.call('HDEL', k, 'o' .. step) end
      end
      if from == 0 then redis.call('HSET', k, 'dg', chain(basis(job), 'mended ' .. int(clock()))) end
    elseif touched then -- outcomes and their order follow from the heads
      local outcomes = {}
      for step = 0, count - 1 do
        local h = head(job, step)
        if h and h[H.order] > 0 then
          outcomes[#outcomes + 1] = { step, h }
        elseif h then
          redis.call('HDEL', k, 'o' .. step)
        end
      end
      table.sort(outcomes, function(a, b) return a[2][H.order] < b[2][H.order] end)
      for nth, pair in ipairs(outcomes) do
        if pair[2][H.order] ~= nth then
          pair[2][H.order] = nth
          put(job, pair[1], pair[2])
        end
      end
      if #outcomes ~= number(f[3]) then redis.call('HSET', k, 'v', #outcomes) end
      redis.call('HDEL', k, 'og')
      redis.call('HSET', k, 'dg', chain(basis(job), 'mended ' .. int(clock()))) -- whoever decides replays first
    end
    local ranks = touched and wide(count) and redis.call('HMGET', k, 'pp', 'pr', 't0', 'ta')
    for step = from, upto - 1 do
      if touched or heads[step] then look(step) end
      if ranks then follow(job, step, head(job, step), state, ranks) end
    end
    if last and f[7] then look(TURN) end

    local wake = touched and last and redis.call('HGET', k, 'wake')
    if touched and last and f[19] and state == 'paused' then
      parked.list(job, f[19], f[4])
      parked.tell(job, f[4]) -- perhaps nobody has
    end
    if ENDED[state] then
      for _, set in ipairs({ 'open', 'due', 'deadlines' }) do
        if redis.call('ZREM', P .. set, job) == 1 then wrong[#wrong + 1] = 'ended, and in ' .. set end
      end
      if wide(count) and redis.call('ZSCORE', P .. 'ended', job) then -- (it expires when its steps have followed)
        if last then redis.call('PEXPIRE', k, A.retention_ms) end
        if last then redis.call('PEXPIRE', key('ev', job), A.retention_ms) end
      elseif redis.call('PTTL', k) < 0 or redis.call('PTTL', key('ev', job)) == -1 then -- its end was not told
        wrong[#wrong + 1] = 'an end that was not told'
        if redis.call('EXISTS', key('ev', job)) == 0 then event(job, stamp(), state, '') end
        tell_end(job, state)
        redis.call('ZADD', P .. 'ended', int(clock()), job)
        if last then
          redis.call('PEXPIRE', k, A.retention_ms)
          redis.call('PEXPIRE', key('ev', job), A.retention_ms)
        end
      end
    else
      if touched then redis.call('ZREM', P .. 'ended', job) end -- a retry that broke
      if touched and not redis.call('ZSCORE', P .. 'open', job) then -- (the slow walk comes from there)
        wrong[#wrong + 1] = state .. ', and not in open'
        redis.call('ZADD', P .. 'open', int(clock()), job)
      end
      if wake and state == 'running' then -- it was about to go on
        need_turn(job)
        redis.call('HDEL', k, 'wake')
      end
      if last and state == 'running' and not open and not redis.call('ZSCORE', P .. 'due', job) then
        wrong[#wrong + 1] = 'nothing that moves it'
        need_turn(job)
      end
    end
    return wrong, f[4], state, wide(count) and upto - from + 9 * read_now or count, not last and upto or nil, open
  end
end

local guarded
do -- (a chunk of Lua has 200 locals at the most)
  -- What the verb has marked and changed is whole.
  local function unmark()
    local jobs = {}
    for job in pairs(marked) do
      if not left_marked[job] then jobs[#jobs + 1] = job end
      if #jobs == 1000 then
        redis.call('ZREM', P .. 'dirty', unpack(jobs))
        jobs = {}
      end
    end
    if #jobs > 0 then redis.call('ZREM', P .. 'dirty', unpack(jobs)) end
  end

  -- Puts right whatever a broken verb has touched; what could not be stays marked.
  local function mend_touched()
    local plans = {}
    for plan in pairs(works) do
      plans[#plans + 1] = plan
    end
    if not wrote and #plans == 0 then return end -- Redis refused the first write: it is full, or a replica
    works, allowance = {}, AT_ONCE
    if on_error then pcall(on_error) end
    for _, plan in ipairs(plans) do
      if not pcall(go_on, plan) then works[plan] = nil end -- the mark of its member, or `plans`, leads back to it
    end
    local seen, more = {}, true
    while more do -- what mending touches is looked at in turn
      more = false
      local touched = {}
      for job in pairs(marked) do
        if not seen[job] then touched[#touched + 1] = job end
      end
      table.sort(touched)
      for _, job in ipairs(touched) do
        seen[job], more = true, true
        local ok = pcall(mend, job, true)
        local plan = redis.call('HGET', key('job', job), 'pl')
        if ok and plan then ok = pcall(go_on, plan) end
        if ok then
          redis.call('ZREM', P .. 'dirty', job)
        else
          works = {}
        end
      end
    end
    pcall(let_in_freed)
    redis.call('HINCRBY', P .. 'mended', 'broken verbs', 1)
    redis.call('HSET', P .. 'waits', '!', 1) -- it may have miscounted: `walk` counts anew
  end

  -- Around each verb that includes this: Redis undoes nothing of a verb that stops with an error, so the verb does. (The others write
  -- nothing, or one thing.)
  guarded = function(verb)
    local ok, answer = pcall(function()
      local answer = verb()
      let_in_freed()
      return answer
    end)
    if ok then
      unmark()
      return answer
    end
    pcall(mend_touched)
    local why = type(answer) == 'table' and answer.err or tostring(answer)
    if not string.match(why, '^%u+ ') then why = 'HALFWAY ' .. why end
    return { err = (string.gsub(why, '[\r\n]', ' ')) }
  end
end
