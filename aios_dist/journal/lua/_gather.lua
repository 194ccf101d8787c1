-- Other rules for a lane. What waits there is gathered among its strays before they hold, a slice at a time where it is much, so that
-- Redis stands still for nobody; what limits hold is noted behind them, in slices too.
--
-- Until the last step is gathered the lane goes by the rules that it has. The last to run are gathered first, so the first go on
-- being dispatched in their order meanwhile; what comes queues behind the strays (place). Who has called goes on (gather.lua), else
-- the reconciler.
--
-- lane:L   next, over   the rules to come, "policy|oldest|fair", and those that it had when they were said: a release that knows nothing
--          of these fields may have set others since, which count
--          at     when its rules changed last, as a stamp
--          look   what limits hold of it is looked at since then, how far that is: MessagePack, a stack of {kind, name, cursor}

local function rules_line(r) return r.policy .. '|' .. int(r.oldest) .. '|' .. r.fair end

local gather, rules_to_come
do -- (a chunk of Lua has 200 locals at the most)
  local SLICE = 500 -- steps, some 3 ms
  local SET = 6 -- what one more set takes, as so many steps
  local SETS = 20 -- that are noted at once
  local left -- of this verb
  each_call(function() left = SLICE end)
  local AT_MOST = 4000

  local function read(says)
    local policy, oldest, fair = string.match(says or '', '^(.*)|(%d+)|(.*)$')
    return policy and { policy = policy, oldest = tonumber(oldest), fair = fair }
  end

  -- The rules that a lane is to have, where they are others than it has: as a table and as they are written.
  rules_to_come = function(lane)
    local f = redis.call('HMGET', key('lane', lane), 'next', 'over', 'policy', 'oldest', 'fair')
    local r = read(f[1])
    if r and f[2] == rules_line({ policy = f[3] or 'fifo', oldest = number(f[4]), fair = f[5] or '' }) then return r end
  end

  -- The last steps of one set go among the strays. They stand on both for a moment: where this breaks, it is done once more.
  local function move_last(lane, tenant)
    local own = compartment(lane, tenant)
    local set = key('ready', own)
    local last, scored, names = redis.call('ZRANGE', set, -math.max(1, left), -1, 'WITHSCORES'), {}, {}
    for i = 1, #last, 2 do
      names[#names + 1] = last[i]
      scored[i], scored[i + 1] = last[i + 1], last[i]
    end
    left = left - #names - SET
    if #names > 0 then
      redis.call('ZADD', key('stray', lane), unpack(scored))
      redis.call('ZREM', key('readyold', own), unpack(names))
      redis.call('ZREM', set, unpack(names))
      if tenant then count_on('ready', lane, -#names) end
    end
    if redis.call('EXISTS', set) == 1 then return end
    redis.call('UNLINK', key('readyold', own))
    if tenant then redis.call('ZREM', key('readyby', lane), tenant) end
  end

  -- A slice of what waits. Gives whether that was all.
  local function empty(lane)
    local plain, by = key('ready', lane), key('readyby', lane)
    while left > 0 do
      local tenant = redis.call('ZRANGE', by, -1, -1)[1] -- whose turn is last
      if tenant then
        move_last(lane, tenant)
      elseif redis.call('EXISTS', plain) == 0 then
        return true
      else
        move_last(lane, nil)
      end
    end
    return redis.call('EXISTS', by, plain) == 0
  end

  -- Nothing waits under the old rules any more: the new ones hold from now on.
  local function switch(lane, r)
    local k = key('lane', lane)
    redis.call('UNLINK', key('readyold', lane))
    local held = redis.call('EXISTS', key('holds', lane)) == 1
    redis.call(
      'HSET',
      k,
      'policy',
      r.policy,
      'oldest',
      int(r.oldest),
      'fair',
      r.fair,
      'at',
      int(stamp()),
      'next',
      '',
      unpack(held and { 'look', cmsgpack.pack({ { 'models', '', '' } }) } or {})
    )
    redis.call('HDEL', k, 'next', 'over')
    rules_of[lane] = nil
    redis.call('PUBLISH', P .. 'control', cmsgpack.pack({ 'lane', lane, '', '' }))
  end

  -- A page of a set. An account of the release before has no right to ask so: then all of it.
  local function page_of(set, cursor, count)
    local found = redis.pcall('ZSCAN', set, cursor, 'COUNT', count)
    return found.err and { '0', redis.call('ZRANGE', set, 0, -1, 'WITHSCORES') } or found
  end

  -- What there is below one entry of the stack, where it goes on, and where it does not, nil.
  local LOOKS = {
    -- The models (and "@T") that hold steps of the lane, behind this one by name.
    models = function(lane, name, _, sets)
      local holds = key('holds', lane)
      local names = redis.call('ZRANGEBYLEX', holds, name == '' and '-' or '(' .. name, '+', 'LIMIT', 0, SETS)
      for _, model in ipairs(names) do
        left = left - SET
        local part, some = model .. '|' .. lane, #sets
        if redis.call('EXISTS', key('held', model)) == 1 then sets[#sets + 1] = { 'held', model, '0' } end
        if of_tenant(model) then
          if redis.call('EXISTS', key('held', part)) == 1 then sets[#sets + 1] = { 'held', part, '0' } end
        elseif redis.call('EXISTS', key('heldby', model)) == 1 then
          sets[#sets + 1] = { 'tenants', model, '0' }
        end
        if #sets == some then redis.call('ZREM', holds, model) end
      end
      return #names == SETS and names[SETS] or nil, ''
    end,

    -- Its tenants. (What stands in a set all along, ZSCAN comes by; what comes meanwhile has come under the new rules.)
    tenants = function(_, model, cursor, sets)
      local found = page_of(key('heldby', model), cursor, SETS)
      for i = 1, #found[2], 2 do
        sets[#sets + 1] = { 'held', model .. '|' .. found[2][i], '0' }
      end
      left = left - SET - #found[2] / 2
      return found[1] ~= '0' and model or nil, found[1]
    end,

    -- The steps.
    held = function(lane, name, cursor)
      local found = page_of(key('held', name), cursor, int(math.max(SETS, left)))
      local scored = {}
      for i = 1, #found[2], 2 do
        scored[i], scored[i + 1] = found[2][i + 1], found[2][i]
      end
      for at = 1, #scored, AT_MOST do -- (as many names as Lua can hand over)
        redis.call('ZADD', key('astray', lane), unpack(scored, at, math.min(at + AT_MOST - 1, #scored)))
      end
      left = left - SET - #scored / 2
      return found[1] ~= '0' and name or nil, found[1]
    end,
  }

  -- A slice of what limits hold: its names, for the reconciler. How far it is is written last, and at once. Gives whether that was all.
  local function look(lane)
    local k = key('lane', lane)
    local packed = redis.call('HGET', k, 'look')
    if not packed then return true end
    local ok, stack = pcall(cmsgpack.unpack, packed)
    if not ok or type(stack) ~= 'table' then stack = { { 'models', '', '' } } end
    while left > 0 and #stack > 0 do
      local top, below = table.remove(stack), {}
      local one, name, cursor = type(top) == 'table' and LOOKS[top[1]], nil, nil
      if one then
        name, cursor = one(lane, tostring(top[2]), tostring(top[3]), below)
      end
      if name then stack[#stack + 1] = { top[1], name, cursor } end
      for _, set in ipairs(below) do
        stack[#stack + 1] = set
      end
    end
    if #stack > 0 then
      redis.call('HSET', k, 'look', cmsgpack.pack(stack))
    else
      redis.call('HDEL', k, 'look')
    end
    rules_of[lane] = nil
    return #stack == 0
  end

  -- As much as one verb may of what a lane's new rules ask for. Gives whether there is more.
  gather = function(lane)
    local r = rules_to_come(lane)
    if r then
      wrote, on_error = true, function()
        left = SLICE
        gather(lane)
      end
      if not empty(lane) then return true end
      switch(lane, r)
    end
    return not look(lane)
  end
end
