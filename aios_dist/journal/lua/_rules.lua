-- The rules of lanes, models and tenants: shared by lane and rules. What aios.toml says counts where it says something new;
-- what a hand has set stays until then.

-- said: {lane, policy, oldest, fair}, nil leaves each as it is; source: "file", "hand", or "reset" (what the file said last). What
-- waits under other rules is gathered first, see _gather. Gives the rules that the lane has or will have, and whether it is to go on.
local function set_lane(said, source)
  local k = key('lane', said.lane)
  local f = redis.call('HMGET', k, 'policy', 'oldest', 'fair', 'file', 'hand', 'next')
  local now = { policy = f[1] or 'fifo', oldest = number(f[2]), fair = f[3] or '' }
  local old = rules_to_come(said.lane) or now
  local new = { policy = said.policy or old.policy, oldest = said.oldest or old.oldest, fair = said.fair or old.fair }
  local hand, says = f[5] or '0', f[4]
  if source == 'file' then
    says = rules_line(new)
    if says == f[4] then
      new = old
    else
      hand = '0'
    end
  elseif source == 'reset' then
    local policy, oldest, fair = string.match(f[4] or 'fifo|0|', '^(.*)|(.*)|(.*)$')
    new, hand = { policy = policy, oldest = tonumber(oldest), fair = fair }, '0'
  else
    hand = '1'
  end
  redis.call('ZADD', P .. 'lanes', 0, said.lane)
  local noted = says and { 'file', says } or {}
  if new.policy ~= now.policy or new.fair ~= now.fair or (new.oldest > 0) ~= (now.oldest > 0) then
    redis.call('HSET', k, 'hand', hand, 'next', rules_line(new), 'over', rules_line(now), unpack(noted))
  else -- (`next` goes with the same write: what was gathered for it has the right rank)
    redis.call('HSET', k, 'policy', new.policy, 'oldest', int(new.oldest), 'fair', new.fair, 'hand', hand, 'next', '', unpack(noted))
    redis.call('HDEL', k, 'next', 'over')
    rules_of[said.lane] = nil
    if new.oldest ~= now.oldest or (f[6] or '') ~= '' then redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'lane', said.lane, '', '' })) end
  end
  return { new.policy, new.oldest, new.fair, tonumber(hand), gather(said.lane) and 1 or 0 }
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
  for _, part in ipairs(m.limits) do
    fields[#fields + 1] = part
  end
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
    if not other and last and last ~= tenant then
      other, floor = last, number(redis.call('HGET', k, last))
    end
    if other and other ~= tenant and now > floor then
      redis.call('HSET', k, tenant, rescaled(now, floor))
      redis.call('ZADD', key('readyby', lane), 'XX', rescaled(now, floor), tenant)
    end
    for _, model in ipairs(holders(lane)) do
      local by = key('heldby', model)
      local held, first = redis.call('ZSCORE', by, tenant), redis.call('ZRANGE', by, 0, 0, 'WITHSCORES')
      if held and not scaled(model) then
        redis.call('ZADD', by, counter(lane, tenant), tenant)
      elseif held and first[1] ~= tenant then
        redis.call('ZADD', by, rescaled(tonumber(held), tonumber(first[2])), tenant)
      end
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
  for _, part in ipairs(t.set) do
    fields[#fields + 1] = part
  end
  redis.call('HSET', k, unpack(fields))
  weigh(t.name, weight, weight_of(t.name))
end
