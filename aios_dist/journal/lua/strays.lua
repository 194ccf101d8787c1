-- strays: steps ranked under other rules than their lane's get a rank, a page at a time; what came since goes where it belongs.
-- ARGV 1: lane, ranked, page, retention_ms
--   ranked: list of {name, policy, base, since, level, group}: what the lane's policy said of the page before
-- returns: {how many went where they belong without a rank, flat list of name, kind, "tenant|agent", µs in calls, deadline
--   in s or "", expected steps or "", estimated cost; how many of `ranked` got their rank}
-- flags: allow-oom
-- include: order, limits, mend, gather
local r, page = rules(A.lane), {}
if rules_to_come(A.lane) or r.look then return { 0, {}, 0 } end -- what is gathered stays where it is until all is
local changed = number(redis.call('HGET', key('lane', A.lane), 'at'))

local function waits(m)
  local job, step = split(m)
  local h = job and head(job, step)
  return h and h[H.state] == 'ready' and h[H.lane] == A.lane and h, job, step
end

-- Whether its rank is by the rules of now: they have not changed since it became ready, or it came behind strays. (A round
-- counts among those of its tenant, or of all: not where shares were switched on or off.)
local function right(h, score)
  if outdated(h) then return false end
  return changed > 0 and h[H.ready] >= changed or score ~= h[H.rank] and h[H.since] ~= SINCE.round
end

local took = 0
for _, s in ipairs(A.ranked) do
  local h, job, step = waits(s.name)
  local current = s.policy == '' or s.policy == r.policy -- else the rules have changed once more
  -- (else it has gone where it belongs meanwhile, or was on this page twice: another rank would not move it)
  local astray = redis.call('ZSCORE', key('astray', A.lane), s.name)
  if h and current and (astray or redis.call('ZSCORE', key('stray', A.lane), s.name)) then
    local was = h[H.since]
    h[H.base], h[H.since], h[H.level], h[H.group], h[H.policy] = s.base, SINCE[s.since], s.level, s.group, s.policy
    local placed = redis.call('HGET', key('job', job), 'pp') -- its place says the same under most policies
    if not placed or was == SINCE.round or h[H.since] == SINCE.round then h[H.rank] = rank_of(job, h) end
    put(job, step, h)
    took = took + 1
    if astray then redis.call('ZREM', key('astray', A.lane), s.name) end
    if redis.call('ZREM', key('stray', A.lane), s.name) == 1 then
      place(job, step, h, false, nil, nil, true)
    else
      move(job, step, h)
    end
  end
end

local seen, placed = 0, 0
for _, set in ipairs({ 'stray', 'astray' }) do
  local names = redis.call('ZRANGE', key(set, A.lane), 0, A.page - seen - 1, 'WITHSCORES')
  for i = 1, #names, 2 do
    local m = names[i]
    local h, job, step = waits(m)
    seen = seen + 1
    if not h then
      redis.call('ZREM', key(set, A.lane), m)
      placed = placed + 1
    elseif set == 'stray' and right(h, tonumber(names[i + 1])) then
      redis.call('ZREM', key(set, A.lane), m)
      place(job, step, h, false, nil, nil, true)
      placed = placed + 1
    else
      local f = redis.call('HMGET', key('job', job), 'who', 'us', 'dl', 'xs')
      for _, fact in ipairs({ m, h[H.kind], f[1], f[2] or '0', f[3] or '', f[4] or '', int(bounded(h[H.cost])) }) do
        page[#page + 1] = fact
      end
    end
  end
  if seen >= A.page then break end
end
return { placed, page, took }
