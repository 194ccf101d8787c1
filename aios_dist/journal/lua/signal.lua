-- signal: what a job waits for, or will wait for, has come.
-- ARGV 1: job, name, id, outcome, most, most_bytes, at, life, retention_ms
--   id: the caller's; sent again under the same one it is the same signal
--   most, most_bytes: signals of a job, of whatever names, that are kept while nobody waits for them
--   at, life: of a wide job, the step from which on is looked who waits for it, and the job's life then; 0 and '' at first
-- returns: {status, tickets}: "delivered", "kept" (nobody waits for it yet), "full" (too many are kept), "ended", "unknown"
--   | {"more", at, life} (send it again with these) | {"sweep"} (steps have still to follow the job: first that, then again)
-- include: order, plan, mend
local MOST_LOOKED = 200 -- 2 ms
local k, sent = key('job', A.job), 'gi|' .. A.id
local facts = redis.call('HMGET', k, 'st', 'n', sent, 'sw', 'dg')
if not facts[1] or hidden(A.job) then return { 'unknown', {} } end
if facts[3] then return { facts[3], {} } end
if facts[1] ~= 'running' and facts[1] ~= 'paused' and facts[1] ~= 'waiting' then return { 'ended', {} } end
if facts[4] then return { 'sweep' } end -- one that has been passed might begin to wait for it
local life, count = string.match(facts[5] or '', '^[^.]*'), steps_of(A.job, facts[2])
local at = life == A.life and A.at or 0
local upto = math.min(count, at + MOST_LOOKED)
for step = at, upto - 1 do
  local h = head(A.job, step)
  if h and h[H.kind] == 'signal' and h[H.state] == 'waiting' and h[H.label] == A.name then
    mark(A.job)
    write_outcome(A.job, step, h, true, A.outcome, stamp(), { sent, 'delivered' })
    need_turn(A.job)
    return { 'delivered', tickets }
  end
end
if upto < count then return { 'more', upto, life } end
local ends = 'g|' .. A.name
local first, next_ = string.match(redis.call('HGET', k, ends) or '0|0', '^(%d+)|(%d+)$')
local kept, bytes = string.match(redis.call('HGET', k, 'gk') or '', '^(%d+)|(%d+)$')
kept, bytes = tonumber(kept or 0), tonumber(bytes or 0)
if kept >= A.most or bytes + #A.outcome > A.most_bytes then return { 'full', {} } end
mark(A.job)
redis.call(
  'HSET',
  k,
  ends .. '|' .. next_,
  A.outcome,
  ends,
  first .. '|' .. int(next_ + 1),
  sent,
  'kept',
  'gk',
  int(kept + 1) .. '|' .. int(bytes + #A.outcome)
)
event(A.job, stamp(), 'signal', '', A.name)
return { 'kept', {} }
