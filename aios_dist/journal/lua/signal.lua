-- signal: what a job waits for, or will wait for, has come.
-- ARGV 1: job, name, outcome, retention_ms
-- returns: {status, tickets}: "delivered", "kept" (nobody waits for it yet), "ended", "unknown"
-- include: plan
local k = key('job', A.job)
local facts = redis.call('HMGET', k, 'st', 'n')
if not facts[1] then return { 'unknown', {} } end
if facts[1] ~= 'running' and facts[1] ~= 'paused' and facts[1] ~= 'waiting' then return { 'ended', {} } end
for step = 0, tonumber(facts[2]) - 1 do
  local h = head(A.job, step)
  if h[H.kind] == 'signal' and h[H.state] == 'waiting' and h[H.label] == A.name then
    write_outcome(A.job, step, h, true, A.outcome, stamp())
    need_turn(A.job)
    return { 'delivered', tickets }
  end
end
local kept = redis.call('HGET', k, 'g' .. A.name)
local signals = kept and cmsgpack.unpack(kept) or {}
signals[#signals + 1] = A.outcome
redis.call('HSET', k, 'g' .. A.name, cmsgpack.pack(signals))
event(A.job, stamp(), 'signal', '', A.name)
return { 'kept', {} }
