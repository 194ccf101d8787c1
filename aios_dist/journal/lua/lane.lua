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
-- All sets in one union: one for each would copy the first again and again.
local function unite(into, sets)
  for at = 1, #sets, 4000 do   -- as many as Lua can hand over
    local part = { into, unpack(sets, at, math.min(at + 3999, #sets)) }
    redis.call('ZUNIONSTORE', into, #part, unpack(part))
  end
end

local changed = new.policy ~= (old.policy or 'fifo') or new.fair ~= old.fair
if changed or (new.oldest > 0) ~= (old.oldest > 0) then
  local stray, from = key('stray', A.lane), {}
  for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', A.lane), 0, -1)) do
    from[#from + 1] = key('ready', A.lane .. '|' .. tenant)
    redis.call('UNLINK', key('readyold', A.lane .. '|' .. tenant))
  end
  redis.call('UNLINK', key('readyby', A.lane), key('readyold', A.lane))
  if #from == 0 and redis.call('EXISTS', key('ready', A.lane)) == 1 and redis.call('EXISTS', stray) == 0 then
    redis.call('RENAME', key('ready', A.lane), stray)   -- a million of them in no time
  else
    from[#from + 1] = key('ready', A.lane)
    unite(stray, from)
    for _, set in ipairs(from) do redis.call('UNLINK', set) end
  end
  for _, model in ipairs(redis.call('ZRANGE', key('holds', A.lane), 0, -1)) do
    local sets = { key('held', model) }
    for _, tenant in ipairs(redis.call('ZRANGE', key('heldby', model), 0, -1)) do
      sets[#sets + 1] = key('held', model .. '|' .. tenant)
    end
    unite(key('astray', A.lane), sets)
  end
  redis.call('DEL', key('holds', A.lane))   -- who is held from now on is noted anew
end
if changed or new.oldest ~= old.oldest then redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'lane', A.lane, '', '' })) end
return { new.policy, new.oldest, new.fair, tonumber(hand) }
