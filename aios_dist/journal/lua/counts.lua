-- counts: the steps that wait on lanes. Reads only.
-- ARGV 1: lanes, retention_ms
-- returns: for each lane {steps, flat list of tenant and steps where it is shared}
local found = {}
for i, lane in ipairs(A.lanes) do
  local count, by = waiting_on(lane)
  found[i] = { count, by }
end
return found
