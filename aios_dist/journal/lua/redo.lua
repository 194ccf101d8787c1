-- redo: a turn has replayed a job that is to be retried, and says which failures its program has not gone on from.
-- ARGV 1: job, basis, undone, rest, retention_ms
--   undone: the numbers of those steps; rest: 1 where more of them follow
-- returns: {status, tickets, basis}: "redone", "stale" (replay again), "ended", "gone"
-- include: mend, again
local facts = redis.call('HMGET', key('job', A.job), 'st', 'dg', 'rt')
if not facts[1] then return { 'gone', {}, '' } end
if facts[1] ~= 'running' then return { 'ended', {}, '' } end
if not facts[3] then return { 'redone', {}, '' } end -- somebody else has
if facts[2] ~= A.basis then return { 'stale', {}, '' } end
run_again(A.job, A.undone, A.rest)
due_later(A.job, 0) -- the caller's own turn goes on from here; should it die, another does
return { 'redone', tickets, basis(A.job) }
