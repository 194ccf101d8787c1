-- retry: a job that failed or was cancelled goes on from the step that failed; what is answered stays answered.
-- ARGV 1: job, retention_ms
-- returns: {status, tickets}: "running", "unknown", or the state that forbids it
-- include: plan
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'n', 'res')
if not facts[1] then return { 'unknown', {} } end
if facts[1] ~= 'failed' and facts[1] ~= 'cancelled' then return { facts[1], {} } end
local count = tonumber(facts[2])
local heads, outcomes, newest = {}, {}, 0
for step = 0, count - 1 do
  local h = head(A.job, step)
  heads[step] = h
  newest = math.max(newest, h[H.ready])
  if h[H.order] > 0 then outcomes[#outcomes + 1] = step end
end
table.sort(outcomes, function(a, b) return heads[a][H.order] < heads[b][H.order] end)

-- A failure that the program has seen and gone on from is part of its history; those at the end are undone.
local undone, some = {}, false
for _, step in ipairs(outcomes) do
  local h = heads[step]
  if h[H.state] == 'failed' and h[H.ended] >= newest then undone[step], some = true, true end
end
-- Where there are none, other branches of a gather() went on after the failure that ended the job.
if not some and facts[1] == 'failed' then
  for place, step in ipairs(outcomes) do
    if heads[step][H.state] == 'failed' and redis.call('HGET', k, 'o' .. step) == facts[3] then
      local seen = outcomes[place + 1] and heads[outcomes[place + 1]][H.ended] or math.huge
      local followed = false
      for other = 0, count - 1 do
        local ready = heads[other][H.ready]
        followed = followed or (ready > heads[step][H.ended] and ready <= seen)
      end
      if not followed then undone[step] = true end
    end
  end
end

redis.call('HSET', k, 'st', 'running')
redis.call('HDEL', k, 'res', 't1', 'pl', 'pn', 'pp', 'ends', 'wake', 'why')
redis.call('PERSIST', k)
redis.call('PERSIST', key('ev', A.job))
redis.call('ZREM', P .. 'ended', A.job)
local at = stamp()
redis.call('ZADD', P .. 'open', int(at), A.job)
event(A.job, at, 'retried', '')
local order = 0
for _, step in ipairs(outcomes) do
  local h = heads[step]
  if undone[step] then
    redis.call('HDEL', k, 'o' .. step)
    redis.call('ZREM', P .. 'dead', member(A.job, step))
  else
    order = order + 1
    if h[H.order] ~= order then
      h[H.order] = order
      put(A.job, step, h)
    end
  end
end
redis.call('HSET', k, 'v', order)
redis.call('ZREM', P .. 'dead', member(A.job, TURN))
for step = 0, count - 1 do
  local h = heads[step]
  if h[H.state] == 'dropped' or undone[step] then
    h[H.order], h[H.ended], h[H.tries], h[H.lost] = 0, 0, 0, 0
    if undone[step] then
      h[H.attempt] = h[H.attempt] + 1   -- who reports the failure again is fenced
      local first = redis.call('HGET', k, 'l' .. step)
      if first then h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$') end
    end
    begin(A.job, step, h)
  end
end
need_turn(A.job)   -- outcomes may have come that no turn has seen
return { 'running', tickets }
