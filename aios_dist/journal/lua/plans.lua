-- plans: a plan that has members left to admit or to drop goes on, and what its producer has left half-submitted is thrown away: a slice.
-- ARGV 1: plan, retention_ms
--   plan: its id (or "PLAN/DIG", see _new); '' for the next of all whose time has come
-- returns: {plan, or '' where there is none; tickets; 1 where there is more to do now}
-- flags: allow-oom
-- include: members, mend, new
local now = clock()
local name = A.plan
if name == '' then name = redis.call('ZRANGEBYSCORE', P .. 'plans', 0, int(now), 'LIMIT', 0, 1)[1] end
if not name then return { '', {}, 0 } end
local plan, dig = string.match(name, '^([^/]*)/(.*)$')
plan = plan or name
local field = dig and 'x' .. dig or 'half'
redis.call('ZADD', P .. 'plans', 'XX', int(now + 1), name) -- behind the others; one that cannot be read keeps none of them
local f = redis.call('HMGET', key('plan', plan), 'st', field, field .. '>')
local over = true
if f[1] and f[2] and f[2] ~= '' then
  if f[3] or abandoned(f[2]) then
    over = throw_slice(plan, field)
  else
    redis.call('ZADD', P .. 'plans', int(numbers(f[2])[1] + ABANDONED), name)
  end
elseif not f[1] or dig then
  if f[2] then redis.call('HDEL', key('plan', plan), field) end
  redis.call('ZREM', P .. 'plans', name)
else
  local ok, answer = pcall(go_on, plan)
  if not ok then
    redis.call('ZADD', P .. 'plans', int(now + 30000000), name)
    error(answer)
  end
  over = answer
  if over then redis.call('ZREM', P .. 'plans', name) end
end
local more = not over
if A.plan == '' and not more then more = #redis.call('ZRANGEBYSCORE', P .. 'plans', 0, int(now + 1), 'LIMIT', 0, 1) > 0 end
return { name, tickets, more and 1 or 0 }
