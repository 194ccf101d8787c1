-- retry: a job that failed or was cancelled goes on from the step that failed; what is answered stays answered.
-- ARGV 1: job, retention_ms
-- returns: {status, tickets}: "running", "unknown", or the state that forbids it
-- include: plan
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'n', 'v')
if not facts[1] then return { 'unknown', {} } end
if facts[1] ~= 'failed' and facts[1] ~= 'cancelled' then return { facts[1], {} } end
local count = tonumber(facts[2])
local heads, last = {}, nil
for step = 0, count - 1 do
  local h = head(A.job, step)
  heads[step] = h
  if h[H.state] == 'failed' and (not last or h[H.order] > heads[last][H.order]) then last = step end
end
-- A failure that the program has seen and gone on from is part of its history; only one at the end is undone.
for step = 0, count - 1 do
  if last and heads[step][H.ready] > heads[last][H.ended] then last = nil end
end
redis.call('HSET', k, 'st', 'running')
redis.call('HDEL', k, 'res', 't1', 'pl', 'pn', 'ends', 'wake')
redis.call('PERSIST', k)
redis.call('PERSIST', key('ev', A.job))
redis.call('ZREM', P .. 'ended', A.job)
local at = stamp()
redis.call('ZADD', P .. 'open', int(at), A.job)
event(A.job, at, 'retried', last or '')
if last then
  local undone = heads[last][H.order]
  redis.call('HDEL', k, 'o' .. last)
  redis.call('HINCRBY', k, 'v', -1)
  redis.call('HINCRBY', k, 'op', 1)
  redis.call('ZREM', P .. 'dead', member(A.job, last))
  for step = 0, count - 1 do
    local h = heads[step]
    if h[H.order] > undone then
      h[H.order] = h[H.order] - 1
      put(A.job, step, h)
    end
  end
end
redis.call('ZREM', P .. 'dead', member(A.job, TURN))
local moves = false
for step = 0, count - 1 do
  local h = heads[step]
  if h[H.state] == 'dropped' or step == last then
    h[H.order], h[H.ended], h[H.tries], h[H.lost] = 0, 0, 0, 0
    begin(A.job, step, h)
    moves = true
  end
end
if not moves then need_turn(A.job) end
return { 'running', tickets }
