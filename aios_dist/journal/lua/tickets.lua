-- tickets: the tickets of lanes beside the steps that wait there; those that nothing can need are taken away.
-- ARGV 1: lanes, lists, spare, retention_ms
--   lists: where the tickets of each lane are; spare: how many more than ready steps may stay, where there are any
-- returns: for each lane {ready steps, tickets}, or {-1, why} where that cannot be read
-- flags: allow-oom
-- include: waiting
local found = {}
for i, lane in ipairs(A.lanes) do
  local ok, ready, depth = pcall(function()
    local ready, depth = waiting_on(lane, true), redis.pcall('LLEN', A.lists[i])
    if type(depth) == 'table' then -- no list at all: no worker hears of its lanes as long as that is there
      redis.call('DEL', A.lists[i])
      return -2, depth.err
    end
    local most = ready > 0 and ready + A.spare[i] or 0
    if most == 0 and depth > 0 then
      redis.call('DEL', A.lists[i])
    elseif depth > most then
      redis.call('LTRIM', A.lists[i], -most, -1)
    end -- the oldest stay, which are taken next
    return ready, math.min(depth, most)
  end)
  if ok and ready == -2 then
    found[i] = { -1, 'what stood there was no list of tickets and was deleted: ' .. depth }
  else
    found[i] = ok and { ready, depth } or { -1, tostring(type(ready) == 'table' and ready.err or ready) }
  end
end
return found
