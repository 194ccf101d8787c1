-- gather: a slice more of what new rules of lanes ask for, see _gather.
-- ARGV 1: lanes, retention_ms
--   lanes: their names; none: all that there are
-- returns: 1 where there is more to do now, else 0
-- flags: allow-oom
-- include: gather, mend
local more = 0
for _, lane in ipairs(#A.lanes > 0 and A.lanes or redis.call('ZRANGE', P .. 'lanes', 0, -1)) do
  if gather(lane) then
    more = 1
    break
  end
end
return more
