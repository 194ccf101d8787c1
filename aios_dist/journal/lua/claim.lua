-- claim: the best ready step of a lane that may run, leased to a worker.
-- ARGV 1: lane, worker, lease_us, retention_ms, budget_outcome
--   budget_outcome: the encoded error of a job that ends because its budget is used up
-- returns: {tickets} when nothing may run, else {tickets, job, step, attempt, kind, label, record, request,
--   version, ready, started, tries}
-- include: limits
local lane = key('ready', A.lane)
local looked = 0
while looked < 1000 do   -- steps set aside by this call: a bound, so that one call never blocks Redis for long
  looked = looked + 1
  local top = redis.call('ZPOPMIN', lane)
  if #top == 0 then return { tickets } end
  local job, step = split(top[1])
  if not job then job, step = top[1], '' end   -- not one of ours: passed over
  local facts = redis.call('HMGET', key('job', job), 'st', 'rec', 'v', 'h' .. step, 'q' .. step, 'tn', 'ob')
  local h = facts[4] and cmsgpack.unpack(facts[4])
  if facts[1] == 'running' and h and h[H.state] == 'ready' then
    local now, may = clock(), true
    if h[H.kind] == 'llm' then
      local spent = over_budget(job, facts[6])
      if spent then
        redis.call('ZADD', lane, top[2], top[1])   -- where pausing and ending look for it
        if facts[7] == 'fail' then end_job(job, 'failed', A.budget_outcome)
        else pause_job(job, 'budget of the ' .. spent .. ' used up') end
        may = false
      else
        local model = h[H.label]
        local held = key('held', model)
        if redis.call('EXISTS', key('model', model)) == 1 then
          local yes, again = allowed(model, h[H.est] or 0, now)
          local first = redis.call('ZRANGE', held, 0, 0, 'WITHSCORES')
          local before = yes and #first > 0 and tonumber(first[2]) < tonumber(top[2])
          if before then   -- one that was held before us goes first; where it needs more room, we wait with it
            local h1 = head(split(first[1]))
            yes, again = allowed(model, h1 and h1[H.est] or 0, now)
            if yes then
              redis.call('ZREM', held, first[1])
              if h1 and h1[H.state] == 'ready' then redis.call('ZADD', key('ready', h1[H.lane]), first[2], first[1]) end
              redis.call('ZADD', lane, top[2], top[1])
              may = false
            end
          end
          if not yes then
            redis.call('ZADD', held, top[2], top[1])
            if again then redis.call('ZADD', P .. 'timers', int(again), 'model:' .. model .. '/!') end
            may = false
          end
        end
      end
    end
    if may then
      local at = stamp()
      h[H.state] = 'leased'
      h[H.attempt] = h[H.attempt] + 1
      h[H.started] = at
      h[H.worker] = A.worker
      enter(h, job, step, now)
      put(job, step, h)
      redis.call('ZADD', P .. 'leases', int(now + A.lease_us), lease_of(job, step, h[H.attempt]))
      event(job, at, 'started', step, A.worker)
      return { tickets, job, step, h[H.attempt], h[H.kind], h[H.label], facts[2], facts[5] or '', facts[3],
               int(h[H.ready]), int(at), h[H.tries] or 0 }
    end
  end
end
return { tickets }
