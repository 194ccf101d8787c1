-- advance: what a turn decided, where it ran apart from a commit.
-- ARGV 1: job, decision, turn_attempt, retention_ms
--   decision: {version: outcomes it has seen, first: steps it knew of, steps, ends, result}
--   turn_attempt: the attempt of the turn's own lease, 0 when it runs without one
-- returns: {status, version, tickets}: "advanced", "stale" (outcomes were written meanwhile: replay and
--   ask again), "ended" (the job has ended, or is paused: its end runs the turn), "gone"
-- include: plan
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'v', 'n')
if not facts[1] then return { 'gone', 0, {} } end
local version = number(facts[2])
local function turn_over()
  if A.turn_attempt == 0 then return end
  local h = head(A.job, TURN)
  if h and h[H.attempt] == A.turn_attempt then
    redis.call('ZREM', P .. 'leases', lease_of(A.job, TURN, A.turn_attempt))
    take(A.job, TURN, h)   -- where its lease had ended
    redis.call('ZREM', P .. 'timers', member(A.job, TURN))
    h[H.state] = 'idle'
    put(A.job, TURN, h)
  end
end
if facts[1] == 'paused' then
  turn_over()
  redis.call('HSET', k, 'wake', 1)
  return { 'ended', version, {} }
end
if facts[1] ~= 'running' then
  turn_over()
  return { 'ended', version, {} }
end
if A.decision.version ~= version then return { 'stale', version, {} } end
if A.decision.first ~= tonumber(facts[3]) then
  turn_over()   -- the same turn was written by somebody else: nothing to add
  return { 'advanced', version, {} }
end
turn_over()
apply_turn(A.job, A.decision, 'running')
return { 'advanced', version, tickets }
