-- lane: the rules of a lane, for the whole fleet, from now on; what waits is ranked anew by the reconciler.
-- ARGV 1: lane, source, policy, oldest, fair, retention_ms
--   source: "file" (aios.toml, which counts only where it says something new), "hand", or "reset" (what aios.toml
--     said last); policy, oldest, fair: nil leaves each as it is
-- returns: {policy, oldest, fair, set by hand (1) or not (0)}
local k = key('lane', A.lane)
local f = redis.call('HMGET', k, 'policy', 'oldest', 'fair', 'file', 'hand')
local old = { policy = f[1], oldest = tonumber(f[2] or '0'), fair = f[3] or '' }
local new = { policy = A.policy or old.policy or 'fifo', oldest = A.oldest or old.oldest, fair = A.fair or old.fair }
local hand = f[5] or '0'
if A.source == 'file' then
  local says = new.policy .. '|' .. int(new.oldest) .. '|' .. new.fair
  if says == f[4] then new = old else hand = '0' end
  redis.call('HSET', k, 'file', says)
elseif A.source == 'reset' then
  local policy, oldest, fair = string.match(f[4] or 'fifo|0|', '^(.*)|(.*)|(.*)$')
  new, hand = { policy = policy, oldest = tonumber(oldest), fair = fair }, '0'
else
  hand = '1'
end
redis.call('HSET', k, 'policy', new.policy, 'oldest', int(new.oldest), 'fair', new.fair, 'hand', hand)
local same = new.policy == (old.policy or 'fifo') and new.fair == old.fair and (new.oldest > 0) == (old.oldest > 0)
if not same then
  local stray = key('stray', A.lane)
  for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', A.lane), 0, -1)) do
    local g = A.lane .. '|' .. tenant
    redis.call('ZUNIONSTORE', stray, 2, stray, key('ready', g))
    redis.call('UNLINK', key('ready', g), key('oldest', g))
  end
  redis.call('UNLINK', key('readyby', A.lane), key('oldest', A.lane))
  if redis.call('EXISTS', key('ready', A.lane)) == 1 then
    if redis.call('EXISTS', stray) == 1 then
      redis.call('ZUNIONSTORE', stray, 2, stray, key('ready', A.lane))
      redis.call('UNLINK', key('ready', A.lane))
    else
      redis.call('RENAME', key('ready', A.lane), stray)   -- a million of them in no time
    end
  end
end
redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'lane', A.lane, '', '' }))
return { new.policy, new.oldest, new.fair, tonumber(hand) }
