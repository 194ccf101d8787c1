-- publish: tickets for steps that wait again: as many as ready steps lack.
-- ARGV 1: lanes, lists, tickets, retention_ms
--   lists: where the tickets of each lane are; tickets: for each lane, the most there may be, as Celery reads them
-- returns: how many were published
-- flags: allow-oom
-- include: waiting

-- A step that a limit held back has left its ticket behind, where another was claimed in its place: with one more
-- for each time it is let in, there is no end of them.
local published = 0
for i, lane in ipairs(A.lanes) do
  local made = A.tickets[i]
  pcall(function() -- a list that is none is the reconciler's to report; the step that is in hand goes on
    local missing = waiting_on(lane, true) - redis.call('LLEN', A.lists[i])
    for n = 1, math.min(#made, missing) do
      redis.call('LPUSH', A.lists[i], made[n])
      published = published + 1
    end
  end)
end
return published
