-- publish: tickets for steps that were let in again: as many as ready steps lack. A step that a limit held back left
-- its ticket behind when another was claimed in its place; with one for each time it is let in, there is no end of them.
-- ARGV 1: lanes, lists, tickets, retention_ms
--   lists: where the tickets of each lane are; tickets: for each lane, the most there may be, as Celery reads them
-- returns: how many were published
local published = 0
for i, lane in ipairs(A.lanes) do
  local made, missing = A.tickets[i], math.huge
  if redis.call('ZCARD', key('readyby', lane)) <= 100 then   -- so many tenants are not counted for one ticket
    missing = waiting_on(lane) - redis.call('LLEN', A.lists[i])
  end
  for n = 1, math.min(#made, missing) do redis.call('LPUSH', A.lists[i], made[n]) end
  published = published + math.max(0, math.min(#made, missing))
end
return published
