-- counts: the steps that wait on lanes. Reads only.
-- ARGV 1: lanes, first, most, due, retention_ms
--   first, most: of a shared lane, so many tenants from that place on (the next to be served is 0), with their steps
--   due: 1: also what would be there if somebody reconciled (the accounts of some may not look)
-- returns: for each lane {steps, flat list of tenant and steps, tenants that wait (0 where `most` is), steps that are due}
-- flags: no-writes
-- include: waiting
local found, due = {}, {}
local MOST_DUE = 200 -- of each kind: where nobody is there to see to it there may be very many, and some are as good as all
local function add_due(lane, count)
  if lane and count > 0 then due[lane] = (due[lane] or 0) + count end
end

-- The lane of the steps that a model holds, by the first of them.
local function lane_of_held(model)
  local first = redis.call('ZRANGE', key('held', model), 0, 0)[1]
  local part = not first and redis.call('ZRANGE', key('heldby', model), 0, 0)[1]
  first = first or (part and redis.call('ZRANGE', key('held', model .. '|' .. part), 0, 0)[1])
  local job, step = split(first or '')
  local h = job and head(job, step)
  return h and h[H.lane]
end

-- Sleeps and back-offs that are over, holds that have ended, leases of workers that are gone; turns that nobody ran, and jobs past
-- their deadline, which a worker has to end.
if A.due == 1 then
  local now = int(clock())
  for _, set in ipairs({ 'timers', 'leases' }) do
    for _, m in ipairs(redis.call('ZRANGEBYSCORE', P .. set, 0, now, 'LIMIT', 0, MOST_DUE)) do
      local job, step = split(string.match(m, '^(.*)#[^#]*$') or m)
      local model = step == '!' and string.match(job, '^model:(.*)$')
      local h = job and not model and head(job, step)
      if model then
        add_due(lane_of_held(model), in_shelf(model))
      elseif h then
        add_due(h[H.lane], 1)
      end
    end
  end
  for _, set in ipairs({ 'due', 'deadlines' }) do
    add_due('turns', #redis.call('ZRANGEBYSCORE', P .. set, 0, now, 'LIMIT', 0, MOST_DUE))
  end
end
for i, lane in ipairs(A.lanes) do
  local by, tenants = {}, 0
  if A.most > 0 then
    tenants = redis.call('ZCARD', key('readyby', lane))
    for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', lane), A.first, A.first + A.most - 1)) do
      by[#by + 1], by[#by + 2] = tenant, redis.call('ZCARD', key('ready', lane .. '|' .. tenant))
    end
  end
  found[i] = { waiting_on(lane), by, tenants, due[lane] or 0 }
end
return found
