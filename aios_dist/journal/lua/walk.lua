-- walk: puts right what is marked, and a page of the open jobs, behind them of the models that have limits; what cannot
-- be read is set aside.
-- ARGV 1: page, cursor, corrupt_outcome, retention_ms
--   page: the most jobs of each kind; cursor: score in `open` from which jobs are looked at, or "/" and a model's name
--   corrupt_outcome: the encoded error of a job whose record cannot be read
-- returns: {what was wrong: flat list of job (or model), what; next cursor; open jobs}
-- include: plan
local found = {}

local function set_aside_whole(job, why)
  found[#found + 1], found[#found + 2] = job, 'set aside: ' .. why
  redis.call('HSET', P .. 'aside', job, why)
  local k = key('job', job)
  -- What can be read of it waits and counts nowhere; claims pass over the rest, and leases end.
  for _, field in ipairs(redis.call('HKEYS', k)) do
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
  pcall(redis.call, 'HSET', k, 'st', 'failed', 'res', A.corrupt_outcome, 't1', int(clock()))
  for _, set in ipairs({ 'open', 'due', 'deadlines', 'dirty' }) do redis.call('ZREM', P .. set, job) end
  redis.call('ZADD', P .. 'ended', int(clock()), job)
  redis.call('XADD', P .. 'ends', 'MAXLEN', '~', 100000, '*', 'job', job, 'state', 'failed')
  redis.call('PEXPIRE', k, A.retention_ms)
  redis.call('PEXPIRE', key('ev', job), A.retention_ms)
end

local function look(job, marked_so)
  local ok, wrong, plan, state = pcall(mend, job, marked_so)
  if not ok then
    set_aside_whole(job, type(wrong) == 'table' and wrong.err or tostring(wrong))
  else
    for _, what in ipairs(wrong) do found[#found + 1], found[#found + 2] = job, what end
  end
  if ok and not marked_so and not (plan and state == 'waiting') then return end
  local facts = redis.call('HMGET', key('job', job), 'pl', 'st')
  if facts[1] and (marked_so or not ok or (facts[2] == 'waiting' and redis.call('EXISTS', key('plan', facts[1])) == 0)) then
    if redis.call('EXISTS', key('plan', facts[1])) == 0 and facts[2] == 'waiting' then
      found[#found + 1], found[#found + 2] = job, 'its plan is gone'
      admit_job(job)   -- nobody else will
    else
      pcall(mend_plan, facts[1])
    end
  end
end

for _, job in ipairs(redis.call('ZRANGE', P .. 'dirty', 0, A.page - 1)) do
  look(job, true)
  redis.call('ZREM', P .. 'dirty', job)
end
local cursor = '0'
if string.sub(A.cursor, 1, 1) ~= '/' then
  local jobs = redis.call('ZRANGEBYSCORE', P .. 'open', '(' .. A.cursor, '+inf', 'WITHSCORES', 'LIMIT', 0, A.page)
  for i = 1, #jobs, 2 do
    cursor = jobs[i + 1]
    look(jobs[i], false)
  end
  if #jobs < 2 * A.page then cursor = '/' end
else
  local from = string.sub(A.cursor, 2)
  local models = redis.call('ZRANGEBYLEX', P .. 'limited', from == '' and '-' or '(' .. from, '+', 'LIMIT', 0, A.page)
  for _, model in ipairs(models) do
    for _, what in ipairs(sweep(model, A.page)) do found[#found + 1], found[#found + 2] = model, what end
  end
  if #models == A.page then cursor = '/' .. models[#models] end
end
if #found > 0 then redis.call('HINCRBY', P .. 'mended', 'jobs', #found / 2) end
return { found, cursor, redis.call('ZCARD', P .. 'open') }
