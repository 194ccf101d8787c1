-- commit: the outcome of a step, once for ever, fenced by the attempt; with it what the turn decided.
-- ARGV 1: job, step, attempt, ok, outcome, prompt_tokens, output_tokens, calls, micros, decision, turn_here, grace_us, retention_ms
--   decision: nil, or {version: outcomes it has seen, this one included, steps, ends, result}
--   turn_here: 1 when the caller can run the turn itself after this
-- returns: {status, version, tickets}: "advanced" (the decision holds), "turn" (the outcome is written, a
--   turn is due), "ended" (written, but the job has ended), "paused" (written; the turn waits for the end of the pause), "mine" (this attempt had written it already),
--   "written" (another attempt had), "fenced" (the lease ended and somebody else has the step), "gone"
-- include: limits
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'v', 'n', 'who')
local h = facts[1] and head(A.job, A.step)
if not h then return { 'gone', 0, {} } end
local mine = h[H.attempt] == A.attempt
if h[H.state] == 'done' or h[H.state] == 'failed' then
  return { mine and 'mine' or 'written', number(facts[2]), {} }
end
if not mine then return { 'fenced', number(facts[2]), {} } end
local at = stamp()
-- A late answer that nobody has taken the step for since: kept, because it is paid for (invariant 3).
if h[H.state] == 'ready' or h[H.state] == 'parked' then set_aside(A.job, A.step, h) end
local unknown = A.ok == 1 and A.prompt_tokens + A.output_tokens == 0   -- no usage came with the answer
settle(A.job, h, not unknown and INPUT_COST * A.prompt_tokens + OUTPUT_COST * A.output_tokens or nil)
leave(h, A.job, A.step, A.prompt_tokens + A.output_tokens, A.ok == 1)
local version = write_outcome(A.job, A.step, h, A.ok == 1, A.outcome, at)
if h[H.kind] == 'llm' and h[H.started] > 0 then redis.call('HINCRBY', k, 'us', int(math.max(0, at - h[H.started]))) end
if A.calls > 0 then
  redis.call('HINCRBY', k, 'up', A.prompt_tokens)
  redis.call('HINCRBY', k, 'uo', A.output_tokens)
  redis.call('HINCRBY', k, 'uc', A.calls)
  if A.micros > 0 then redis.call('HINCRBY', k, 'um', A.micros) end
  spend(tenant_in(facts[4]), A.prompt_tokens + A.output_tokens, A.micros)
end
if facts[1] == 'paused' then
  redis.call('HSET', k, 'wake', 1)
  return { 'paused', version, tickets }
end
if facts[1] ~= 'running' then return { 'ended', version, tickets } end
if A.decision and A.decision.version == version and A.decision.first == tonumber(facts[3]) then
  apply_turn(A.job, A.decision, 'running')
  return { 'advanced', version, tickets }
end
due_later(A.job, A.grace_us)
if A.turn_here ~= 1 then need_turn(A.job) end
return { 'turn', version, tickets }
