-- rules: what aios.toml says of lanes, models and tenants, or a hand of one of them: all of it, or nothing.
-- ARGV 1: digest, source, models, tenants, lanes, retention_ms
--   digest: of all that an aios.toml says, noted so that a worker sees whether Redis still knows it; '' with a hand
--   source: "file" or "hand"; models, tenants, lanes: see _rules.lua
-- returns: the lanes whose steps have still to be gathered, see _gather
-- flags: allow-oom
-- include: mend, rules
for _, m in ipairs(A.models) do
  set_model(m, A.source)
end
for _, t in ipairs(A.tenants) do
  set_tenant(t, A.source)
end
local left = {}
for _, lane in ipairs(A.lanes) do
  if set_lane(lane, A.source)[5] == 1 then left[#left + 1] = lane.lane end
end
if A.digest ~= '' then redis.call('HSET', P .. 'rules', A.digest, int(clock())) end -- last: half of it is said again
return left
