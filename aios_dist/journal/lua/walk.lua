-- walk: puts right what is marked, a page of the open jobs, and what counts or is held; the unreadable is set aside.
-- ARGV 1: page, cursor, corrupt_outcome, retention_ms
--   page: the most jobs of each kind; cursor: score in `open` from which jobs are looked at (behind it "|STEP|1" within a wide one: from
--     which step on, and whether one before it moves the job), or "/" and a model's name
--   corrupt_outcome: the encoded error of a job whose record cannot be read
-- returns: {what was wrong: flat list of job (or model), what; next cursor; open jobs; how many of them were looked at}
-- flags: allow-oom
-- include: waiting, order, limits, plan, sweep, members, mend, new
local found = {}

local function note(what_of, what)
  found[#found + 1], found[#found + 2] = what_of, what
end

-- A job whose record cannot be read fails, with what is known of it; an end that was told stays as it is.
local function set_aside_whole(job, why)
  note(job, 'set aside: ' .. why)
  redis.call('HSET', P .. 'aside', job, why)
  local k = key('job', job)
  for _, set in ipairs({ 'open', 'due', 'deadlines', 'sweeps' }) do
    redis.call('ZREM', P .. set, job)
  end
  if redis.call('TYPE', k).ok ~= 'hash' then redis.call('DEL', k) end
  redis.call('HDEL', k, 'sw')
  parked.no_more(job)
  local state, plan, of, count = unpack(redis.call('HMGET', k, 'st', 'pl', 'pn', 'n'))
  count = steps_of(job, count)
  if ENDED[state] and (redis.call('PTTL', k) >= 0 or wide(count) and redis.call('ZSCORE', P .. 'ended', job)) then return end
  -- (else it broke in its end)
  -- What can be read of it waits and counts nowhere (of a wide one soon); claims pass over the rest, and leases end.
  for _, field in ipairs(wide(count) and {} or redis.call('HKEYS', k)) do
    local step = string.match(field, '^h(%d+)$') or (field == 'ht' and TURN)
    local h = step and head(job, step)
    if h then
      pcall(set_aside, job, step, h)
      if h[H.state] == 'leased' then
        redis.call('ZREM', P .. 'leases', lease_of(job, step, h))
        pcall(leave, h, job, step, 0, false)
      end
    end
  end
  if not ENDED[state] then
    local told = plan and of and state ~= 'waiting' and about_to_end(plan, of, job)
    state = 'failed'
    redis.call('HSET', k, 'st', state, 'res', A.corrupt_outcome, 't1', int(clock()))
    if told then member_ended(plan, of, true) end
  end
  tell_end(job, state)
  redis.call('ZADD', P .. 'ended', int(clock()), job)
  if wide(count) then
    stands_at(job, 0, count, state)
    return
  end
  redis.call('PEXPIRE', k, A.retention_ms)
  redis.call('PEXPIRE', key('ev', job), A.retention_ms)
end

-- Plans of the jobs that were looked at, each once. One whose tree cannot be read ends, and its members that wait.
local plans, orphans = {}, {}
local function look_at_plan(plan)
  local ok = pcall(go_on, plan)
  if not ok then
    works = {}
    note('plan ' .. plan, 'set aside: its tree cannot be read')
    redis.call('HSET', P .. 'aside', 'plan ' .. plan, 'its tree cannot be read')
    pcall(end_plan, plan, true)
  end
end

-- A plan that has something left to do, or is half-submitted, is among those that somebody looks at.
local looked_at = {}
local function keep_on(job, plan)
  local points
  if plan == nil then
    points, plan = unpack(redis.call('HMGET', key('job', job), 'hp', 'pl'))
  end
  if not plan or looked_at[plan] then return end
  looked_at[plan] = true
  local f = redis.call('HMGET', key('plan', plan), 'st', 'todo', 'now', points or 'half')
  local coming = f[4] and f[4] ~= ''
  local name = coming and name_of(plan, points or 'half') or plan
  local busy = coming or (f[1] == 'running' and ((f[2] or '') ~= '' or (f[3] or '') ~= ''))
  if busy and not redis.call('ZSCORE', P .. 'plans', name) then
    note(job, 'nobody goes on with its plan')
    redis.call('ZADD', P .. 'plans', int(clock()), name)
  end
end

-- So many heads are looked at in one call at the most: it is the steps that take the time.
local MOST_HEADS = 1000
local heads = 0

-- Gives whether it is done with: a fault that is not the job's own leaves its mark; and of a wide job where to go on.
local function look(job, marked_so, part)
  local ok, wrong, plan, state, count, next_, open = pcall(mend, job, marked_so, part)
  heads = heads + 1 + (ok and count or 0)
  if ok then
    for _, what in ipairs(wrong) do
      note(job, what)
    end
  elseif type(wrong) == 'table' and wrong.corrupt then
    pcall(set_aside_whole, job, wrong.corrupt)
  else
    note(job, 'could not be looked at: ' .. (type(wrong) == 'table' and tostring(wrong.err) or tostring(wrong)))
    mark(job)
    left_marked[job] = true
    return false
  end
  if not ok then
    works = {}
    plan = redis.call('HGET', key('job', job), 'pl')
  end
  keep_on(job, plan)
  if plan and (marked_so or not ok or state == 'waiting') then
    local its_state = redis.call('HGET', key('plan', plan), 'st')
    if state == 'waiting' and its_state ~= 'running' then orphans[#orphans + 1] = { job, its_state, plan } end
    if its_state == 'running' and (marked_so or not ok) then plans[plan] = true end
  end
  return true, ok and next_ and int(next_) .. '|' .. (open and 1 or 0)
end

-- What waits in tenants' sets is counted as it moves. It is counted anew where few tenants wait, and where a verb broke.
local function count_lanes()
  local broke = redis.call('HGET', P .. 'waits', '!')
  local fields = broke and redis.call('HKEYS', P .. 'waits') or {}
  for _, lane in ipairs(broke and {} or redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
    fields[#fields + 1] = 'ready:' .. lane
    for _, model in ipairs(redis.call('ZRANGE', key('holds', lane), 0, A.page - 1)) do
      fields[#fields + 1] = 'held:' .. model
    end
  end
  for _, field in ipairs(fields) do
    local shelf, name = string.match(field, '^(%a+):(.*)$')
    if shelf and (broke or redis.call('ZCARD', key(shelf .. 'by', name)) <= A.page) then
      local says, count = number(redis.call('HGET', P .. 'waits', field)), counted_anew(shelf, name)
      if says ~= count then
        if not broke then note(field, 'counted ' .. int(says) .. ' steps, there wait ' .. int(count)) end
        if count == 0 then
          redis.call('HDEL', P .. 'waits', field)
        else
          redis.call('HSET', P .. 'waits', field, count)
        end
      end
    end
  end
  redis.call('HDEL', P .. 'waits', '!')
end

-- A tenant that has had nothing dispatched on a shared lane for the retention, and has nothing there, is forgotten there.
local function forget_tenants()
  local now, holding = clock(), {}
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', P .. 'used', 0, int(now - A.retention_ms * 1000), 'LIMIT', 0, A.page)) do
    local lane, tenant = string.match(entry, '^(.*)|([^|]*)$')
    local waits = redis.call('ZSCORE', key('readyby', lane), tenant) or redis.call('ZSCORE', key('heldby', '@' .. tenant), lane)
    holding[lane] = holding[lane] or holders(lane)
    for _, model in ipairs(holding[lane]) do
      waits = waits or redis.call('ZSCORE', key('heldby', model), tenant)
    end
    if waits then
      redis.call('ZADD', P .. 'used', int(now), entry)
    else
      local share = key('share', lane)
      redis.call('HDEL', share, tenant)
      if redis.call('HGET', share, '!') == tenant then redis.call('HDEL', share, '!', '!m') end
      redis.call('HDEL', key('lane', lane), 'n|' .. tenant)
      redis.call('DEL', key('rounds', lane .. '|' .. tenant))
      redis.call('ZREM', P .. 'used', entry)
    end
  end
end

for _, job in ipairs(redis.call('ZRANGE', P .. 'dirty', 0, A.page - 1)) do
  if look(job, true) then redis.call('ZREM', P .. 'dirty', job) end
  if heads > MOST_HEADS then break end
end
forget_tenants() -- at each look, not each round: there may come more of them than a page in that time
local cursor, looked = '0', 0
if string.sub(A.cursor, 1, 1) ~= '/' then
  local within, step, moves = string.match(A.cursor, '^(.*)|(%d+)|(%d)$')
  local jobs = redis.call('ZRANGEBYSCORE', P .. 'open', within or '(' .. A.cursor, '+inf', 'LIMIT', 0, A.page)
  local function score(job) return redis.call('ZSCORE', P .. 'open', job) end -- (as text, which takes as long as a look)
  local last = #jobs == A.page and score(jobs[#jobs])
  for i, job in ipairs(jobs) do
    local at = heads > MOST_HEADS and i < #jobs and score(job)
    local part = within and i == 1 and score(job) == within and { from = tonumber(step), open = moves == '1' }
    local _, rest = look(job, false, part or nil)
    local same = rest and score(job)
    if same then
      last = same .. '|' .. rest
      break
    end
    looked = i
    if at then
      last = at
      break
    end
  end
  cursor = last or '/'
else
  local from = string.sub(A.cursor, 2)
  if from == '' then count_lanes() end
  local models = redis.call('ZRANGEBYLEX', P .. 'limited', from == '' and '-' or '(' .. from, '+', 'LIMIT', 0, A.page)
  for _, model in ipairs(models) do
    local ok, wrong = pcall(sweep, model, A.page)
    for _, what in ipairs(ok and wrong or { 'could not be looked at' }) do
      note(model, what)
    end
  end
  if #models == A.page then cursor = '/' .. models[#models] end
  for _, job in ipairs(redis.call('HKEYS', P .. 'aside')) do -- forgotten with its record
    local plan = string.match(job, '^plan (.*)$')
    if redis.call('EXISTS', plan and key('plan', plan) or key('job', job)) == 0 then redis.call('HDEL', P .. 'aside', job) end
  end
end
for plan in pairs(plans) do
  look_at_plan(plan)
end
for _, orphan in ipairs(orphans) do
  local job, state = orphan[1], orphan[2]
  if state then
    note(job, 'its plan has ended')
    pcall(end_job, job, 'failed', A.corrupt_outcome, true)
  else
    note(job, 'its plan is gone')
    pcall(admit_job, orphan[3], job) -- nobody else will
  end
end
pcall(let_in_freed) -- one model that cannot be looked at stops no walk
if #found > 0 then redis.call('HINCRBY', P .. 'mended', 'jobs', #found / 2) end
return { found, cursor, redis.call('ZCARD', P .. 'open'), looked }
