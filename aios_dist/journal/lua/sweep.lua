-- sweep: a slice more of the steps of a wide job follow its state, see _sweep.
-- ARGV 1: job, retention_ms
--   job: its id; '' for the next of all with which nobody goes on
-- returns: {job, or '' where there is none; tickets; 1 where there is more to do now; how many waiting steps have another place}
-- flags: allow-oom
-- include: sweep, mend

-- A slice of a wide job that a verb broke over, see stands_at. Gives whether there is more of it.
local function left_to_mend(job, how, from)
  local ok, why, _, state, _, next_, open = pcall(mend, job, true, { from = from, open = how == 'o' })
  if not ok then
    if type(why) ~= 'table' or not why.corrupt then error(why) end
    redis.call('HSET', key('job', job), 'sw', why.corrupt) -- `walk` sets it aside
    mark(job)
    left_marked[job] = true
    redis.call('ZREM', P .. 'sweeps', job)
    return false
  end
  if not state then -- there is no such job any more
    redis.call('ZREM', P .. 'sweeps', job)
    return false
  end
  return stands_at(job, next_ or 1, next_ and next_ + 1 or 1, state, open and 'o' or 'm')
end

-- A slice more of it. Gives whether there are some left, and how many have another place in a line.
local function follow_on(job)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'sw', 'st', 'n')
  local how, at = string.match(f[1] or '', '^(%a?)(%d+)$')
  if not at then
    mark(job)
    redis.call('ZREM', P .. 'sweeps', job)
    if f[1] then error(f[1]) end -- (its mark stays: `walk` sets it aside)
    return false, 0
  end
  local count = steps_of(job, f[3])
  if how ~= '' then return left_to_mend(job, how, tonumber(at)), 0 end
  local next_, moved = follow_page(job, tonumber(at), count, f[2])
  return stands_at(job, next_, count, f[2]), moved
end

by_caller = A.job ~= ''
local job = A.job
if job == '' then job = redis.call('ZRANGEBYSCORE', P .. 'sweeps', 0, int(clock()), 'LIMIT', 0, 1)[1] end
if not job then return { '', {}, 0, 0 } end
local left, moved = follow_on(job)
if A.job == '' and not left then left = #redis.call('ZRANGEBYSCORE', P .. 'sweeps', 0, int(clock()), 'LIMIT', 0, 1) > 0 end
return { job, tickets, left and 1 or 0, moved }
