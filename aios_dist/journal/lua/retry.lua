-- retry: a job that failed or was cancelled goes on; what is answered stays answered.
-- ARGV 1: job, salt, basis, undone, rest, retention_ms
--   salt: random; the job's incarnation is another one from here on
--   basis, undone: what the caller's replay has seen, and the numbers of the steps to run again; '' and nil: a worker decides
--   rest: 1 where more of them follow, by redo
-- returns: {status, tickets, more, basis}: "running", "unknown", "stale" (replay again), "sweep" (steps have still to follow its end: first
--   that, then again), or the state that forbids it; more: see cancel
-- include: order, sweep, mend, again
by_caller = true

-- Which failures are run again is decided by the program's replay: by the caller's (undone), or by the turn that this
-- asks for (see redo).
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'dg', 'dl', 'pl', 't0', 'ta', 'n', 'sw')
if not facts[1] or hidden(A.job) then return { 'unknown', {}, 0 } end
if facts[1] ~= 'failed' and facts[1] ~= 'cancelled' then return { facts[1], {}, 0 } end
if facts[8] then return { 'sweep', {}, 0 } end
if A.undone and A.basis ~= facts[2] then return { 'stale', {}, 0 } end
mark(A.job)
redis.call('PERSIST', k)
redis.call('PERSIST', key('ev', A.job))
local at = stamp()
redis.call('ZADD', P .. 'open', int(at), A.job)
-- It is no member of its plan from here on: first, or its end would be told once more. `of` is for who sends the same again.
if facts[4] then redis.call('HSET', k, 'of', facts[4]) end
redis.call('HDEL', k, 'pl', 'pn', 'pp', 'ends', 'wake', 'why', 'zs', 'hp')
redis.call('HSET', k, 'st', 'running', 'dg', chain(birth_of(facts[2] or '') .. '~' .. A.salt, 'retry'), 'rt', 1, 'ta', int(at))
redis.call('HDEL', k, 'res', 't1')
redis.call('ZREM', P .. 'ended', A.job)
redis.call('ZREM', P .. 'dead', member(A.job, TURN))
if facts[3] then redis.call('ZADD', P .. 'deadlines', int(clock() + number(facts[3]) * 1e6), A.job) end -- anew, as all that counts from it
for step = 0, wide(facts[7]) and -1 or steps_of(A.job, facts[7]) - 1 do -- (those of a wide job follow)
  local h = head(A.job, step)
  if h and h[H.state] == 'leased' and h[H.since] == SINCE.submitted then
    h[H.rank] = h[H.rank] + at - number(facts[6] or facts[5])
    put(A.job, step, h)
  end
end
event(A.job, at, 'retried', '')
run_again(A.job, A.undone or {}, A.rest)
if not A.undone then redis.call('HSET', k, 'rt', 1) end
local left = wide(facts[7]) and follow_all(A.job, 'running', facts[7])
need_turn(A.job) -- outcomes may have come that no turn has seen
return { 'running', tickets, left and 1 or 0, basis(A.job) }
