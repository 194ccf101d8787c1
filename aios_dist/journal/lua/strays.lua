-- strays: steps that were ranked under other rules than their lane has now get a rank; the next page of them.
-- ARGV 1: lane, ranked, page, retention_ms
--   ranked: list of {name, policy, base, since, level, group}: what the lane's policy said of the page before
-- returns: flat list of name, kind, record, µs in calls
local stray, r = key('stray', A.lane), rules(A.lane)
for _, s in ipairs(A.ranked) do
  local job, step = split(s.name)
  local h = head(job, step)
  local current = s.policy == '' or s.policy == r.policy   -- else the rules have changed once more
  if h and h[H.state] == 'ready' and current and redis.call('ZREM', stray, s.name) == 1 then
    h[H.base], h[H.since], h[H.level], h[H.group], h[H.policy] = s.base, SINCE[s.since], s.level, s.group, s.policy
    if not redis.call('HGET', key('job', job), 'pp') then h[H.rank] = rank_of(job, h) end
    put(job, step, h)
    place(job, step, h)
  end
end
local page = {}
for _, m in ipairs(redis.call('ZRANGE', stray, 0, A.page - 1)) do
  local job, step = split(m)
  local h = job and head(job, step)
  if h and h[H.state] == 'ready' then
    local f = redis.call('HMGET', key('job', job), 'rec', 'us')
    page[#page + 1], page[#page + 2], page[#page + 3], page[#page + 4] = m, h[H.kind], f[1], f[2] or '0'
  else
    redis.call('ZREM', stray, m)
  end
end
return page
