-- The rules of lanes, models and tenants: shared by lane and rules. What aios.toml says counts where it says something new;
-- what a hand has set stays until then.

-- As many names as Lua can hand over.
local AT_MOST = 4000
local function pages(names, what)
  for at = 1, #names, AT_MOST do what(at, unpack(names, at, math.min(at + AT_MOST - 1, #names))) end
end

-- All sets in one union, by way of some: one for each would copy the first again and again.
local function unite(into, sets)
  local some = {}
  pages(sets, function(at, ...)
    if #sets <= AT_MOST then redis.call('ZUNIONSTORE', into, 1 + select('#', ...), into, ...)
    else
      some[#some + 1] = into .. '|' .. int(at)
      redis.call('ZUNIONSTORE', some[#some], select('#', ...), ...)
      redis.call('PEXPIRE', some[#some], 60000)   -- (should we break)
    end
  end)
  if #some > 0 then
    redis.call('ZUNIONSTORE', into, 1 + #some, into, unpack(some))
    redis.call('UNLINK', unpack(some))
  end
end

-- What waits on a lane under rules that are no more: on as strays, and by name where it is held, for the reconciler. A set goes with
-- its own by age, and who waits goes last: where this breaks, it is done once more.
local function astray(lane)
  local stray, from, old = key('stray', lane), {}, {}
  local function gone(name)
    old[#old + 1] = key('ready', name)
    old[#old + 1] = key('readyold', name)
  end
  for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', lane), 0, -1)) do
    from[#from + 1] = key('ready', lane .. '|' .. tenant)
    gone(lane .. '|' .. tenant)
  end
  gone(lane)
  redis.call('HDEL', P .. 'waits', 'ready:' .. lane)
  wrote, on_error = true, function() astray(lane) end   -- else they would wait twice until it is said again
  if #from == 0 and redis.call('EXISTS', key('ready', lane)) == 1 and redis.call('EXISTS', stray) == 0 then
    redis.call('RENAME', key('ready', lane), stray)   -- a million of them in no time
  else
    from[#from + 1] = key('ready', lane)
    unite(stray, from)
  end
  pages(old, function(_, ...) redis.call('UNLINK', ...) end)
  redis.call('UNLINK', key('readyby', lane))
  for _, model in ipairs(redis.call('ZRANGE', key('holds', lane), 0, -1)) do
    local sets = { key('held', model) }
    local parts = string.sub(model, 1, 1) == '@' and { lane } or redis.call('ZRANGE', key('heldby', model), 0, -1)
    for _, part in ipairs(parts) do sets[#sets + 1] = key('held', model .. '|' .. part) end
    if redis.call('EXISTS', unpack(sets, 1, math.min(#sets, 4000))) == 0 then redis.call('ZREM', key('holds', lane), model)
    else unite(key('astray', lane), sets) end
  end
end

-- said: {lane, policy, oldest, fair}, nil leaves each as it is; source: "file", "hand", or "reset" (what the file said last).
local function set_lane(said, source)
  local k = key('lane', said.lane)
  local f = redis.call('HMGET', k, 'policy', 'oldest', 'fair', 'file', 'hand')
  local old = { policy = f[1], oldest = tonumber(f[2] or '0') or 0, fair = f[3] or '' }
  local new = { policy = said.policy or old.policy or 'fifo', oldest = said.oldest or old.oldest, fair = said.fair or old.fair }
  local hand, says = f[5] or '0', f[4]
  if source == 'file' then
    says = new.policy .. '|' .. int(new.oldest) .. '|' .. new.fair
    if says == f[4] then new = old else hand = '0' end
  elseif source == 'reset' then
    local policy, oldest, fair = string.match(f[4] or 'fifo|0|', '^(.*)|(.*)|(.*)$')
    new, hand = { policy = policy, oldest = tonumber(oldest), fair = fair }, '0'
  else
    hand = '1'
  end
  local changed = new.policy ~= (old.policy or 'fifo') or new.fair ~= old.fair
  redis.call('ZADD', P .. 'lanes', 0, said.lane)
  if changed or (new.oldest > 0) ~= (old.oldest > 0) then astray(said.lane) end   -- before: nothing stands under rules unmade
  redis.call('HSET', k, 'policy', new.policy, 'oldest', int(new.oldest), 'fair', new.fair, 'hand', hand,
             unpack(says and { 'file', says } or {}))
  if changed or new.oldest ~= old.oldest then redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'lane', said.lane, '', '' })) end
  return { new.policy, new.oldest, new.fair, tonumber(hand) }
end

-- What the file is noted to have said, where what is said now counts: it is written with what it says, in one command.
-- `says`: all of it in one line; `nothing`: the line of a file that says nothing of it.
local function newly_said(k, says, nothing, source)
  local said = redis.call('HGET', k, 'file')
  if source == 'hand' then return { 'file', said or nothing } end
  return said ~= says and { 'file', says } or nil
end

-- m: {name, limits: flat list of fields, fallback: nil with a hand, else flat list of fields, says, nothing, any: 1 where something is set}
local function set_model(m, source)
  local k = key('model', m.name)
  if m.any == 0 and redis.call('EXISTS', k) == 0 then return end
  local fields = newly_said(k, m.says, m.nothing, source)
  if not fields then return end
  -- Where the limit has become wider, what it held is let in by the next pass of the reconciler.
  look_at_held(m.name, 1)
  for _, part in ipairs(m.limits) do fields[#fields + 1] = part end
  redis.call('ZADD', P .. 'limited', 0, m.name)
  redis.call('HSET', k, unpack(fields))
end

-- A tenant has another weight: what it is ahead of the others that compete by counts as much as it does by the new one.
local function weigh(tenant, old, new)
  if old == new then return end
  local function rescaled(now, floor) return exact(floor + (now - floor) * old / new) end
  for _, lane in ipairs(redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
    local k = key('share', lane)
    local now, last = number(redis.call('HGET', k, tenant)), redis.call('HGET', k, '!')
    local other, floor = least('ready', lane, lane)
    if not other and last and last ~= tenant then other, floor = last, number(redis.call('HGET', k, last)) end
    if other and other ~= tenant and now > floor then
      redis.call('HSET', k, tenant, rescaled(now, floor))
      redis.call('ZADD', key('readyby', lane), 'XX', rescaled(now, floor), tenant)
    end
    for _, model in ipairs(holders(lane)) do
      local by = key('heldby', model)
      local held, first = redis.call('ZSCORE', by, tenant), redis.call('ZRANGE', by, 0, 0, 'WITHSCORES')
      if held and not scaled(model) then redis.call('ZADD', by, counter(lane, tenant), tenant)
      elseif held and first[1] ~= tenant then redis.call('ZADD', by, rescaled(tonumber(held), tonumber(first[2])), tenant) end
    end
  end
end

-- t: {name, set: flat list of fields, unset: list of fields, says, nothing}
local function set_tenant(t, source)
  local k = key('tenant', t.name)
  local fields = newly_said(k, t.says, t.nothing, source)
  if not fields then return end
  redis.call('HSET', P .. 'registry', 'tenant/' .. t.name, '')
  local weight = weight_of(t.name)
  if #t.unset > 0 then redis.call('HDEL', k, unpack(t.unset)) end
  for _, part in ipairs(t.set) do fields[#fields + 1] = part end
  redis.call('HSET', k, unpack(fields))
  weigh(t.name, weight, weight_of(t.name))
end
