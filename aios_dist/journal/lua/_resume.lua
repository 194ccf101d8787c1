-- A paused job goes on: shared by resume, rewind and unpark.

-- A paused job goes on; its steps wait again with the rank that they had. Gives whether there are some that have still to follow.
local function resume_job(job)
  local k = key('job', job)
  mark(job)
  local facts = redis.call('HMGET', k, 'n', 'v', 'wake')
  redis.call('HSET', k, 'st', 'running')
  parked.no_more(job)
  redis.call('HDEL', k, 'why', 'zs') -- where one was being rewound, and nobody went on with that, it is not
  event(job, stamp(), 'resumed', '')
  local left = follow_all(job, 'running', facts[1])
  if facts[3] or number(facts[1]) <= number(facts[2]) then
    need_turn(job)
    redis.call('HDEL', k, 'wake') -- last: until then it says that one is due
  end
  return left
end
