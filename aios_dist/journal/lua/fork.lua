-- fork: a new job with the history of another up to a step; what came before is reused, not paid again.
-- ARGV 1: job, new, step, birth, retention_ms
--   birth: random
-- returns: {status, tickets}: "new" (also when it was made before), "unknown", "conflict" (the id is taken), "beyond" (there is no such step)
-- include: new
local from, to = key('job', A.job), key('job', A.new)
local facts = redis.call('HMGET', from, 'st', 'n', 'rec', 'who', 'pr', 'bt', 'bm', 'ob', 'dl', 'xs', 'dg')
if not facts[1] or hidden(A.job) then return { 'unknown', {} } end
local whence = A.job .. '/' .. int(A.step)
if known(A.new) then
  return { redis.call('HGET', to, 'from') == whence and 'new' or 'conflict', {} }   -- 'new': the answer was lost
end
if A.step > tonumber(facts[2]) then return { 'beyond', {} } end
local at, answered, open = stamp(), {}, {}
mark(A.new)
created[1] = A.new
event(A.new, at, 'submitted', '', 'fork of ' .. A.job)   -- its first, before its hash says of others
redis.call('ZADD', P .. 'open', int(at), A.new)
-- Data agents stay so: the birth begins with a letter that says it.
redis.call('HSET', to, 'half', '1', 'st', 'running', 'n', A.step, 'rec', facts[3], 'who', facts[4], 'pr', facts[5] or 0,
           't0', int(at), 'from', whence, 'dg', string.sub(facts[11] or 'c', 1, 1) .. A.birth)
for i, field in ipairs({ 'bt', 'bm', 'ob', 'dl', 'xs' }) do   -- its limits are the job's
  if facts[5 + i] then redis.call('HSET', to, field, facts[5 + i]) end
end
if facts[9] then redis.call('ZADD', P .. 'deadlines', int(clock() + facts[9] * 1e6), A.new) end
for step = 0, A.step - 1 do
  local h = head(A.job, step)
  h[H.token], h[H.back] = '', 0
  redis.call('HSET', to, 'q' .. step, redis.call('HGET', from, 'q' .. step))
  if h[H.order] > 0 then
    redis.call('HSET', to, 'o' .. step, redis.call('HGET', from, 'o' .. step))
    answered[#answered + 1] = { step, h }
  else
    open[#open + 1] = { step, h }
  end
end
table.sort(answered, function(a, b) return a[2][H.order] < b[2][H.order] end)
for order, pair in ipairs(answered) do
  pair[2][H.order] = order
  put(A.new, pair[1], pair[2])
end
redis.call('HSET', to, 'v', #answered)
for _, pair in ipairs(open) do
  local h = pair[2]
  h[H.attempt], h[H.started], h[H.worker], h[H.lost], h[H.tries], h[H.counted] = 0, 0, '', 0, 0, 0
  h[H.charged], h[H.capped], h[H.first] = 0, 0, 0
  local first = redis.call('HGET', from, 'l' .. pair[1])   -- begun anew at its own model
  if first then h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$') end
  h[H.state] = 'pending'
  put(A.new, pair[1], h)
end
for _, pair in ipairs(open) do begin(A.new, pair[1], pair[2]) end
need_turn(A.new)
whole(A.new)
return { 'new', tickets }
