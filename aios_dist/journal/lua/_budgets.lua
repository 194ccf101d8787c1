-- Budgets of jobs, and of tenants a day. Shared by claim and commit.
--
-- tenant:T   l_tok/l_mic budget a day, w weight; spend:T:DAY tok/mic spent

local function day() return int(math.floor(clock() / 86400000000)) end

-- What a call took is its tenant's, on this day. Gives what writes that: sums, in one command, so that it may be done again.
local function spending(tenant, tokens, micros)
  if redis.call('EXISTS', key('tenant', tenant)) == 0 then
    return function() end
  end
  local k = key('spend', tenant .. ':' .. day())
  local s = redis.pcall('HMGET', k, 'tok', 'mic')
  return function()
    redis.call('HSET', k, 'tok', int(number(s[1]) + tokens), 'mic', decimal(number(s[2]) + micros))
    redis.call('PEXPIRE', k, 3 * 86400000)
  end
end

-- Which budget is used up: nil, "job" or "tenant".
local function over_budget(job, tenant)
  local b = redis.call('HMGET', key('job', job), 'bt', 'bm', 'up', 'uo', 'um')
  if (b[1] and number(b[3]) + number(b[4]) >= number(b[1])) or (b[2] and number(b[5]) >= number(b[2])) then return 'job' end
  local l = redis.call('HMGET', key('tenant', tenant), 'l_tok', 'l_mic')
  if l[1] or l[2] then
    local s = redis.call('HMGET', key('spend', tenant .. ':' .. day()), 'tok', 'mic')
    if (l[1] and number(s[1]) >= number(l[1])) or (l[2] and number(s[2]) >= number(l[2])) then return 'tenant' end
  end
end
