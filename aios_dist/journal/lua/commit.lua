-- commit: the outcome of a step, once for ever, fenced by the claim's token; with it what the turn decided.
-- ARGV 1: job, step, token, incarnation, digest, ok, outcome, prompt_tokens, output_tokens, calls, micros, refusal, decision, turn_here, grace_us,
--         texts, needs, retention_ms
--   incarnation, digest: of the job and of the request, as the claim gave them
--   refusal: nil, or what a failed call says of its model: {hold_us, breaker}, see hold in _limits.lua
--   decision: nil, or {basis: what the program had seen before this outcome, first: steps it knew of, steps, more, ends, result}
--   texts: what the outcome refers to: address, text, address, … (the decision has its own); needs: see advance
--   turn_here: 1 when the caller can run the turn itself after this
-- returns: {status, version, tickets, basis}: "advanced" (the decision holds), "turn" (the outcome is written, a
--   turn is due), "ended" (written, but the job has ended), "paused" (written; the turn waits for the end of the pause),
--   "mine" (this claim had written it already), "written" (another had), "fenced" (somebody else has the step, or it
--   is another step now), "lacking" (see advance), "gone"
-- flags: allow-oom
-- include: order, limits, budgets, texts, plan, sweep, mend
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'v', 'n', 'who', 'dg', 'up', 'uo', 'uc', 'um', 'us', 'half', 'rt', 'ue', 'hp', 'sw', 'zn')
local there = facts[1] and not ((facts[11] or facts[14]) and hidden(A.job))
local h, forgotten = there and head(A.job, A.step), false
if there and not h and facts[16] then -- the job was resumed from an earlier step: what this took counts
  for era = number(facts[16]), 1, -1 do
    h = h or unpacked(redis.call('HGET', k, string.format('z%d|h%s', era, A.step)))
  end
  forgotten = true
end
if not h then return { 'gone', 0, {}, '' } end
if facts[15] and not forgotten and A.step ~= TURN then -- it may not have followed its job yet
  follow(A.job, A.step, h, facts[1])
  h = head(A.job, A.step)
end
local mine, version, proof = h[H.token] == A.token and not forgotten, number(facts[2]), facts[5] or ''
local same = birth_of(A.incarnation) == birth_of(proof) -- this life of the job, retries included: its answers are its own
local tenant = tenant_in(facts[4])

-- What the answer took. One that brought no usage took what was reserved for it (of another step's request nobody knows).
local prompt, output, calls, micros = bounded(A.prompt_tokens), bounded(A.output_tokens), A.calls, micros_of(A.micros)
-- (What a worker holds from before Redis was put back may have been a tool's, where a call stands now.)
local answered = A.ok == 1 and h[H.kind] == 'llm' and A.digest == h[H.digest]
local unknown = answered and prompt + output == 0
if unknown then
  prompt, output = estimated(h)
end
if answered then calls = math.max(1, calls) end
local used, sent = {}, 'u|' .. A.token -- written with the outcome: it counts where that does
local function add_used(field, before, more)
  if more > 0 then
    used[#used + 1], used[#used + 2] = field, decimal(number(before) + more)
  end
end
if not mine and redis.call('HEXISTS', k, sent) == 1 then calls = 0 end -- it has counted, see too_late
if calls > 0 then
  add_used('up', facts[6], prompt)
  add_used('uo', facts[7], output)
  add_used('uc', facts[8], calls)
  add_used('um', facts[9], micros)
  if unknown then add_used('ue', facts[13], prompt + output) end
end

-- An answer that nobody wants any more was paid for all the same: it counts, and once, however often it is sent.
local function too_late(status)
  if calls > 0 and same then
    mark(A.job)
    local pay = spending(tenant, prompt + output, micros)
    on_error = function()
      if redis.call('HEXISTS', k, sent) == 1 then pay() end
    end
    redis.call('HSET', k, sent, 1, unpack(used))
    pay()
  end
  return { status, version, {}, '' }
end

if forgotten then return too_late('gone') end
if h[H.state] == 'done' or h[H.state] == 'failed' then
  if mine then return { 'mine', version, {}, '' } end
  return too_late('written')
end
if not mine then
  -- Nobody holds it, and it is the same step of the same job: a late answer, or one to a claim that Redis has lost. It is
  -- kept, because it is paid for (invariant 3). A failure from before a retry is what the retry has undone.
  local free = h[H.state] == 'ready' or h[H.state] == 'parked' or h[H.state] == 'dropped' or h[H.state] == 'pending'
  local known = same
  if A.ok ~= 1 then known = A.incarnation == string.match(proof, '^[^.]*') end
  if not free or not known or A.digest ~= h[H.digest] then return too_late('fenced') end
  h[H.token] = A.token -- this claim's from here on: sent once more, the outcome is "mine"
end
if texts.lack(A.job, A.needs) then return { 'lacking', version, {}, '' } end
mark(A.job)
whos[A.job] = facts[4] or nil
local at, began, label = stamp(), h[H.counted], h[H.state] == 'leased' and h[H.label] -- (else it may be at another model by now)
if h[H.state] == 'ready' or h[H.state] == 'parked' then set_aside(A.job, A.step, h) end
-- The share first, by what the call has taken: where nobody knows, what the claim charged stands.
settle(A.job, h, not unknown and INPUT_COST * prompt + OUTPUT_COST * output or nil)
if label and answered and (unknown or began ~= 0) then answers(label, unknown) end
if label and A.refusal and A.ok ~= 1 then hold(label, A.refusal, h[H.started], clock()) end -- before others are let in
leave(h, A.job, A.step, prompt + output, A.ok == 1)
if h[H.kind] == 'llm' and h[H.started] > 0 then add_used('us', facts[10], bounded(at - h[H.started])) end
local pay = calls > 0 and spending(tenant, prompt + output, micros) or function() end
on_error = function() -- where the outcome stands, its tenant pays: sent again, it is "mine" and counts no more
  local now = head(A.job, A.step)
  if now and now[H.order] > 0 then pay() end
end
texts.keep(A.job, A.texts)
version = write_outcome(A.job, A.step, h, A.ok == 1, A.outcome, at, used)
pay()
if facts[1] == 'paused' then
  redis.call('HSET', k, 'wake', 1)
  return { 'paused', version, tickets, '' }
end
if facts[1] ~= 'running' then return { 'ended', version, tickets, '' } end
local right = A.decision and A.decision.basis == (facts[5] or '') and A.decision.first == tonumber(facts[3])
if right and not facts[12] then
  apply_turn(A.job, A.decision, 'running')
  -- A signal that had come is an outcome of this very write, which the program has not seen.
  return { 'advanced', number(redis.call('HGET', k, 'v')), tickets, basis(A.job) }
end
-- Whoever runs the turn may die before it: then the reconciler calls for one.
due_later(A.job, A.grace_us)
if A.turn_here ~= 1 then need_turn(A.job) end
return { 'turn', version, tickets, '' }
