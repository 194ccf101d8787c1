-- commit: the outcome of a step, once for ever, fenced by the claim's token; with it what the turn decided.
-- ARGV 1: job, step, token, incarnation, digest, ok, outcome, prompt_tokens, output_tokens, calls, micros, decision, turn_here, grace_us, retention_ms
--   incarnation, digest: of the job and of the request, as the claim gave them
--   decision: nil, or {basis: what the program had seen before this outcome, first: steps it knew of, steps, ends, result}
--   turn_here: 1 when the caller can run the turn itself after this
-- returns: {status, version, tickets, basis}: "advanced" (the decision holds), "turn" (the outcome is written, a
--   turn is due), "ended" (written, but the job has ended), "paused" (written; the turn waits for the end of the pause),
--   "mine" (this claim had written it already), "written" (another had), "fenced" (somebody else has the step, or it
--   is another step now), "gone"
-- include: limits
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'v', 'n', 'who', 'dg', 'up', 'uo', 'uc', 'um', 'us', 'half', 'rt')
local h = facts[1] and not (facts[11] and hidden(A.job)) and head(A.job, A.step)
if not h then return { 'gone', 0, {}, '' } end
local mine, version, proof = h[H.token] == A.token, number(facts[2]), facts[5] or ''
if h[H.state] == 'done' or h[H.state] == 'failed' then return { mine and 'mine' or 'written', version, {}, '' } end
if not mine then
  -- Nobody holds it, and it is the same step of the same job: a late answer, or one to a claim that Redis has lost. It is
  -- kept, because it is paid for (invariant 3). A failure from before a retry is what the retry has undone.
  local free = h[H.state] == 'ready' or h[H.state] == 'parked' or h[H.state] == 'dropped' or h[H.state] == 'pending'
  local same = birth_of(A.incarnation) == birth_of(proof)
  if A.ok ~= 1 then same = A.incarnation == string.match(proof, '^[^.]*') end
  if not free or not same or A.digest ~= h[H.digest] then return { 'fenced', version, {}, '' } end
  h[H.token] = A.token
end
mark(A.job)
whos[A.job] = facts[4] or nil
local at = stamp()
if h[H.state] == 'ready' or h[H.state] == 'parked' then set_aside(A.job, A.step, h) end
local prompt, output, micros = bounded(A.prompt_tokens), bounded(A.output_tokens), bounded(A.micros)
local unknown = A.ok == 1 and prompt + output == 0   -- no usage came with the answer
settle(A.job, h, not unknown and INPUT_COST * prompt + OUTPUT_COST * output or nil)
leave(h, A.job, A.step, prompt + output, A.ok == 1)
local used = {}   -- written with the outcome: it counts where that does
local function add(field, before, more)
  if more > 0 then used[#used + 1], used[#used + 2] = field, int(number(before) + more) end
end
if h[H.kind] == 'llm' and h[H.started] > 0 then add('us', facts[10], bounded(at - h[H.started])) end
if A.calls > 0 then
  add('up', facts[6], prompt)
  add('uo', facts[7], output)
  add('uc', facts[8], A.calls)
  add('um', facts[9], micros)
end
version = write_outcome(A.job, A.step, h, A.ok == 1, A.outcome, at, used)
if A.calls > 0 then spend(tenant_in(facts[4]), prompt + output, micros) end
if facts[1] == 'paused' then
  redis.call('HSET', k, 'wake', 1)
  return { 'paused', version, tickets, '' }
end
if facts[1] ~= 'running' then return { 'ended', version, tickets, '' } end
local right = A.decision and A.decision.basis == (facts[5] or '') and A.decision.first == tonumber(facts[3])
if right and not facts[12] then
  apply_turn(A.job, A.decision, 'running')
  return { 'advanced', version, tickets, basis(A.job) }
end
due_later(A.job, A.grace_us)
if A.turn_here ~= 1 then need_turn(A.job) end
return { 'turn', version, tickets, '' }
