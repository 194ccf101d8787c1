-- How many steps wait on a lane. The keys of it: _order.

-- How many steps stand in the tenants' sets of a shelf; counted anew where nobody has yet, or somebody has miscounted.
local function counted_anew(shelf, name)
  local count = 0
  for _, part in ipairs(redis.call('ZRANGE', key(shelf .. 'by', name), 0, -1)) do
    count = count + redis.call('ZCARD', key(shelf, name .. '|' .. part))
  end
  return count
end
local function in_parts(shelf, name)
  local count = redis.call('HGET', P .. 'waits', shelf .. ':' .. name)
  if tonumber(count or '') then return math.max(0, tonumber(count)) end
  return counted_anew(shelf, name)
end

-- Whether a worker that lives has just this. (Of code by a name of its own, see leave_to_others.)
local function somebody_has(need)
  local till = redis.call('ZSCORE', P .. 'serving', (string.gsub(need, '^code/', 'has/')))
  return till and tonumber(till) > clock()
end

-- Whether a worker that lives serves this. An agent's code that nobody has any more is tried with what there is of the agent.
local function somebody_serves(need)
  local agent = string.match(need, '^code/(.*)@')
  return somebody_has(need) or (agent and somebody_has('agent/' .. agent))
end

local function in_shelf(name) return redis.call('ZCARD', key('held', name)) + in_parts('held', name) end

-- How many steps wait on a lane. Those that only other workers can serve are counted among them; `served`: where there
-- are such workers.
local function waiting_on(lane, served)
  local count = redis.call('ZCARD', key('ready', lane)) + redis.call('ZCARD', key('stray', lane)) + in_parts('ready', lane)
  for _, need in ipairs(redis.call('ZRANGE', key('wanted', lane), 0, -1)) do
    if not served or somebody_serves(need) then count = count + in_shelf('?' .. need) end
  end
  return count
end
