-- advance: what a turn decided, where it ran apart from a commit.
-- ARGV 1: job, decision, token, needs, retention_ms
--   decision: {basis: what the program had seen, first: steps it knew of, steps, more, ends, result}
--     texts: what the steps refer to: address, text, address, … (nil: nothing); most: bytes that the job may hold
--     more: 0, or it is not all that the program asks for, and the caller goes on: µs until somebody else does
--   token: of the turn's own lease, '' when it runs without one
--   needs: addresses of texts that are taken to be there, one behind the other
-- returns: {status, version, tickets, basis}: "advanced", "stale" (the job is not where the program was: replay
--   and ask again), "lacking" (some of what it needs is not there, nothing is written: send all of it),
--   "ended" (the job has ended, or is paused: its end runs the turn), "gone"
-- flags: allow-oom
-- include: texts, plan, mend
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'v', 'n', 'dg', 'rt')
if not facts[1] then return { 'gone', 0, {}, '' } end
local version = number(facts[2])
local function turn_over()
  if A.token == '' then return end
  local h = head(A.job, TURN)
  if h and h[H.token] == A.token then
    mark(A.job)
    redis.call('ZREM', P .. 'leases', lease_of(A.job, TURN, h))
    set_aside(A.job, TURN, h) -- where its lease had ended
    h[H.state] = 'idle'
    put(A.job, TURN, h)
  end
end
if facts[1] == 'paused' then
  turn_over()
  redis.call('HSET', k, 'wake', 1)
  return { 'ended', version, {}, '' }
end
if facts[1] ~= 'running' then
  turn_over()
  return { 'ended', version, {}, '' }
end
local retried = facts[5] and not A.decision.parks -- which failures are run again, code that fits will say
if A.decision.basis ~= (facts[4] or '') or A.decision.first ~= tonumber(facts[3]) or retried then return { 'stale', version, {}, '' } end
if texts.lack(A.job, A.needs) then return { 'lacking', version, {}, '' } end
if A.decision.more == 0 then turn_over() end
apply_turn(A.job, A.decision, 'running')
-- A signal that had come is an outcome of this very write, which the program has not seen.
return { 'advanced', number(redis.call('HGET', k, 'v')), tickets, basis(A.job) }
