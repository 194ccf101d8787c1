-- renew: all leases of one worker, in one call.
-- ARGV 1: leases, lease_us
--   leases: list of "job/step#attempt"
-- returns: the leases that are no longer the caller's
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
