-- shift: Redis' clock has jumped: what was made before keeps its distance from now.
-- ARGV 1: by_us, within_us, lease_us, seen, retention_ms
--   by_us: how far it jumped (negative: back); 0 only shortens leases that end later than any can
--   within_us: how long ago it did so at the most; seen: the jumps that the caller knew of before this one
-- returns: {entries that were moved, jumps}
-- flags: allow-oom
local now, by, moved = clock(), A.by_us, 0
local jumps = number(redis.pcall('GET', P .. 'jumps'))
local known_of = by ~= 0 and A.seen ~= jumps -- another worker has seen it too, and was here before
if by ~= 0 and not known_of then
  jumps = jumps + 1
  redis.call('SET', P .. 'jumps', int(jumps))
end
if known_of then by = 0 end

-- What was made since the jump has a time between then and now; all else was made before.
local function before(made) return made > now or made <= now - A.within_us end

-- Where nobody knows when it was made, but that it is over `at`: the sooner of what is possible.
local function pending(at)
  if by > 0 then return at <= now - A.within_us end
  return at > now - by - A.within_us
end

-- From the end that the entries move to, so that none comes twice.
local function each(set, which)
  local count, page = redis.call('ZCARD', set), 1000
  local pages = math.ceil(count / page)
  for i = 1, pages do
    local first = by > 0 and math.max(0, count - i * page) or (i - 1) * page
    local last = by > 0 and count - (i - 1) * page - 1 or first + page - 1
    local found, changed = redis.call('ZRANGE', set, first, last, 'WITHSCORES'), {}
    for n = 1, #found, 2 do
      local at = tonumber(found[n + 1])
      if which(found[n], at) then
        changed[#changed + 1], changed[#changed + 2] = int(at + by), found[n]
        moved = moved + 1
      end
    end
    if #changed > 0 then redis.call('ZADD', set, unpack(changed)) end
  end
end

local function timer(m, at)
  local job, step = split(m)
  local ok, h = pcall(head, job or m, step or '')
  if ok and h and h[H.state] == 'timed' then return before(at - (h[H.after] or 0)) end
  return pending(at)
end

local function deadline(job, at)
  local lasts = tonumber(redis.call('HGET', key('job', job), 'dl') or '')
  if lasts then return before(at - lasts * 1000000) end
  return pending(at)
end

-- A hold that is over must not begin anew after a jump back. One that was made since has a timer.
local function shift_hold(model)
  local till = tonumber(redis.call('HGET', key('model', model), 'hold') or '')
  if not till then return end
  local rings = tonumber(redis.call('ZSCORE', P .. 'timers', 'model:' .. model .. '/!') or '0')
  local new = math.abs(rings - till) <= 2 and not pending(rings)
  if by > 0 and pending(till) or by < 0 and till > now and not new then redis.call('HSET', key('model', model), 'hold', int(till + by)) end
end

local function shift_beat()
  local last, spare = string.match(redis.call('GET', P .. 'beat') or '', '^(%d+)|(%d+)$')
  if not last then return end
  last, spare = tonumber(last), tonumber(spare)
  if by ~= 0 and before(last) then last = last + by end
  if by ~= 0 and spare > 0 and before(spare - A.lease_us) then spare = spare + by end
  last, spare = math.max(0, math.min(last, now)), math.max(0, math.min(spare, now + A.lease_us))
  redis.call('SET', P .. 'beat', int(last) .. '|' .. int(spare))
end

-- Each part alone: one that cannot be read keeps none of the others.
local function part(f, ...)
  local ok, why = pcall(f, ...)
  if not ok then redis.log(redis.LOG_WARNING, 'shift: ' .. tostring(type(why) == 'table' and why.err or why)) end
end

part(shift_beat)
if by ~= 0 then
  for _, field in ipairs(redis.call('HKEYS', P .. 'registry')) do
    local kind, name = string.match(field, '^(%a+)/(.*)$')
    local model = kind == 'model' and name or kind == 'tenant' and '@' .. name or nil
    if model then
      part(shift_hold, model)
      for _, set in ipairs({ 'inflight', 'window' }) do
        part(each, key(set, model), function(_, at) return before(at) end)
      end
    end
  end
  part(each, P .. 'leases', function(_, at) return before(at - A.lease_us) end)
  part(each, P .. 'serving', function(need, at) return string.sub(need, 1, 4) == 'has/' and before(at - A.lease_us) end)
  part(each, P .. 'timers', timer)
  part(each, P .. 'deadlines', deadline)
  for _, set in ipairs({ 'due', 'sweeps', 'plans' }) do
    part(each, P .. set, function(_, at) return pending(at) end)
  end
end
part(function() -- a second more: not all workers need have the same settings at the same time
  local late = int(now + A.lease_us)
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', int(now + A.lease_us + 1000000), '+inf')) do
    redis.call('ZADD', P .. 'leases', late, lease)
    moved = moved + 1
  end
end)
return { moved, jumps }
