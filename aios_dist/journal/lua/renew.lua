-- renew: all leases of one worker, in one call.
-- ARGV 1: leases, lease_us, retention_ms
--   leases: list of their names
-- returns: those that are not there any more; see regain
-- flags: allow-oom
local till = int(clock() + A.lease_us)
local lost = {}
for _, lease in ipairs(A.leases) do
  if redis.call('ZSCORE', P .. 'leases', lease) then
    redis.call('ZADD', P .. 'leases', 'XX', till, lease)
  else
    lost[#lost + 1] = lease
  end
end
return lost
