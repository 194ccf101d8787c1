-- counts: the steps that wait on lanes. Reads only.
-- ARGV 1: lanes, first, most, retention_ms
--   first, most: of a shared lane, so many tenants from that place on (the next to be served is 0), with their steps
-- returns: for each lane {steps, flat list of tenant and steps, tenants that wait (0 where `most` is)}
-- include: waiting
local found = {}
for i, lane in ipairs(A.lanes) do
  local by, tenants = {}, 0
  if A.most > 0 then
    tenants = redis.call('ZCARD', key('readyby', lane))
    for _, tenant in ipairs(redis.call('ZRANGE', key('readyby', lane), A.first, A.first + A.most - 1)) do
      by[#by + 1], by[#by + 2] = tenant, redis.call('ZCARD', key('ready', lane .. '|' .. tenant))
    end
  end
  found[i] = { waiting_on(lane), by, tenants }
end
return found
