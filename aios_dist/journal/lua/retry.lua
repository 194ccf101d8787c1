-- retry: a job that failed or was cancelled goes on; what is answered stays answered.
-- ARGV 1: job, salt, basis, undone, deadline_us, retention_ms
--   salt: random; the job's incarnation is another one from here on
--   basis, undone: what the caller's replay has seen, and the numbers of the steps to run again; '' and nil: a worker decides
--   deadline_us: 0, or the job's deadline, counted anew
-- returns: {status, tickets}: "running", "unknown", "stale" (replay again), or the state that forbids it
-- include: plan

-- Which failures are run again is decided by the program's replay: by the caller's (undone), or by the turn that this
-- asks for (see redo).
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'dg')
if not facts[1] then return { 'unknown', {} } end
if facts[1] ~= 'failed' and facts[1] ~= 'cancelled' then return { facts[1], {} } end
if A.undone and A.basis ~= facts[2] then return { 'stale', {} } end
mark(A.job)
redis.call('PERSIST', k)
redis.call('PERSIST', key('ev', A.job))
local at = stamp()
redis.call('ZADD', P .. 'open', int(at), A.job)
redis.call('HSET', k, 'st', 'running', 'dg', chain(birth_of(facts[2] or '') .. '~' .. A.salt, 'retry'), 'rt', 1)
redis.call('HDEL', k, 'res', 't1', 'pl', 'pn', 'pp', 'ends', 'wake', 'why')
redis.call('ZREM', P .. 'ended', A.job)
redis.call('ZREM', P .. 'dead', member(A.job, TURN))
if A.deadline_us > 0 then redis.call('ZADD', P .. 'deadlines', int(clock() + A.deadline_us), A.job) end
event(A.job, at, 'retried', '')
run_again(A.job, A.undone or {})
if not A.undone then redis.call('HSET', k, 'rt', 1) end
need_turn(A.job)   -- outcomes may have come that no turn has seen
return { 'running', tickets }
