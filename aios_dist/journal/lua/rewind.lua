-- rewind: a paused job forgets its steps from one on, and goes on with whatever code its agent has now; what came before is reused.
-- ARGV 1: job, step, salt, facts, retention_ms
--   salt: random; the job's incarnation is another one from here on
--   facts: flat list of fields to change first: a new budget
-- returns: {status, tickets, more}: "running" (also when this asking had made it so), "more" (a slice is done: the same again), "unknown",
--   "beyond" (there is no such step), "busy" (a step from there on is being called: its answer is paid for), "sweep" (steps have still to
--   follow its pause: first that, then again), or the state that forbids it; more: see cancel
-- include: plan, sweep, mend, resume
--
-- What is forgotten stays in the record: z<E>|h<N>, z<E>|q<N> and z<E>|o<N>, as they were, E counts (zn); its usage has counted.
by_caller = true
local LOOKED_AT_ONCE = 500
local k = key('job', A.job)
local f = redis.call('HMGET', k, 'st', 'n', 'v', 'og', 'dg', 'sw', 'zn', 'zs', 'zd', 'ch', 'cn')
if not f[1] or hidden(A.job) then return { 'unknown', {}, 0 } end
if f[9] == A.salt then return { 'running', {}, 0 } end -- its answer was lost: what came since stays
if f[1] ~= 'paused' then return { f[1], {}, 0 } end
if f[6] then return { 'sweep', {}, 0 } end
local count = steps_of(A.job, f[2])
if A.step > count then return { 'beyond', {}, 0 } end
-- Before anything is forgotten; a paused job has no claims but those of before.
for first = A.step, count - 1, LOOKED_AT_ONCE do
  local names = {}
  for step = first, math.min(first + LOOKED_AT_ONCE, count) - 1 do
    names[#names + 1] = 'h' .. int(step)
  end
  for _, packed in ipairs(redis.call('HMGET', k, unpack(names))) do
    -- (a word of its label's may be the same)
    if packed and string.find(packed, 'leased', 1, true) and unpacked(packed)[H.state] == 'leased' then return { 'busy', {}, 0 } end
  end
end
local from, forgotten, fields, gone = math.max(A.step, count - STEPS_AT_ONCE), 0, {}, {}
local heads = {}
local function forget(n)
  for _, kind in ipairs({ 'h', 'q', 'o', 'e', 'l' }) do
    gone[#gone + 1] = kind .. n
  end
end
for step = from, count - 1 do
  local h = head(A.job, int(step))
  if not h then error('the head of step ' .. int(step) .. ' cannot be read') end
  heads[step] = h
end
mark(A.job)
on_error = function()
  if steps_of(A.job, redis.call('HGET', k, 'n')) == from then
    redis.call('HDEL', k, unpack(gone)) -- they are forgotten
    return
  end
  for step, h in pairs(heads) do
    if h[H.state] == 'timed' then redis.call('ZADD', P .. 'timers', int(h[H.ready] + h[H.after]), member(A.job, int(step))) end
  end
end
local era = number(f[7]) + (f[8] and 0 or 1) -- `zs` stands while slices are still to come
for step = from, count - 1 do
  local h, n = heads[step], int(step)
  set_aside(A.job, n, h)
  for _, kind in ipairs({ 'h', 'q', 'o' }) do
    local value = redis.call('HGET', k, kind .. n)
    if value then
      fields[#fields + 1], fields[#fields + 2] = 'z' .. int(era) .. '|' .. kind .. n, value
    end
  end
  forget(n)
  if h[H.order] > 0 then forgotten = forgotten + 1 end
  if h[H.token] ~= '' and h[H.order] > 0 then
    fields[#fields + 1], fields[#fields + 2] = 'u|' .. h[H.token], 1 -- said once more, it counts no more
  end
  redis.call('ZREM', P .. 'dead', member(A.job, n))
end
local proof = chain(birth_of(f[5] or '') .. '~' .. A.salt, 'rewind ' .. int(from))
local left_out = number(f[4]) + forgotten
redis.call('HSET', k, 'n', int(from), 'v', int(number(f[3]) - forgotten), 'og', int(left_out), 'zn', int(era), 'dg', proof, unpack(fields))
if #gone > 0 then redis.call('HDEL', k, unpack(gone)) end
if from > A.step then
  redis.call('HSET', k, 'zs', 1)
  return { 'more', {}, 0 }
end
-- Whatever code there is goes on with it; of the steps that stay it is still known whose they are.
if f[10] then redis.call('HSET', k, 'cw', f[10], 'cn', int(math.min(A.step, number(f[11])))) end
redis.call('HDEL', k, 'ch')
redis.call('HSET', k, 'wake', 1, 'zd', A.salt, unpack(A.facts))
event(A.job, stamp(), 'rewound', '', 'to step ' .. int(A.step))
local left = resume_job(A.job)
return { 'running', tickets, left and 1 or 0 }
