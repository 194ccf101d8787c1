-- claim: the best ready step of a lane that may run, leased to a worker.
-- ARGV 1: lane, worker, lease_us, retention_ms, budget_outcome
--   budget_outcome: the encoded error of a job that ends because its budget is used up
-- returns: {tickets} when nothing may run, else {tickets, job, step, attempt, kind, label, record, request,
--   version, ready, started, tries, µs in calls}
-- include: limits
local looked = 0
while looked < 1000 do   -- steps set aside by this call: a bound, so that one call never blocks Redis for long
  looked = looked + 1
  local top, aged = take_best(A.lane)
  if not top then return { tickets } end
  local job, step = split(top)
  if not job then job, step = top, '' end   -- not one of ours: passed over
  local facts = redis.call('HMGET', key('job', job), 'st', 'rec', 'v', 'h' .. step, 'q' .. step, 'who', 'ob', 'us')
  local h, tenant = facts[4] and cmsgpack.unpack(facts[4]), tenant_in(facts[6])
  if facts[1] == 'running' and h and h[H.state] == 'ready' then
    local now, may = clock(), true
    if h[H.kind] == 'llm' then
      local spent = over_budget(job, tenant)
      local own = '@' .. tenant
      if spent then
        place(job, step, h, true)   -- where pausing and ending look for it
        if facts[7] == 'fail' then end_job(job, 'failed', A.budget_outcome)
        else pause_job(job, 'budget of the ' .. spent .. ' used up') end
        may = false
      elseif redis.call('EXISTS', key('model', own)) == 1 and not allowed(own, 0, now) then
        hold_back(own, job, step, h)
        may = false
        let_in(h[H.label])   -- it may have been let in: the room is for another
      else
        local model = h[H.label]
        if redis.call('EXISTS', key('model', model)) == 1 then
          local yes, again = allowed(model, h[H.est] or 0, now)
          local first, score, other, has = first_held(model, aged)
          local before = yes and first and score < (aged and h[H.ready] or h[H.rank])
          if yes and other and other ~= tenant then before = has < tonumber(counter(h[H.lane], tenant)) end
          if before then   -- one that was held before us goes first; where it needs more room, we wait with it
            local job1, step1 = split(first)
            local h1 = head(job1, step1)
            yes, again = allowed(model, h1 and h1[H.est] or 0, now)
            if yes then
              take_from('held', model, first, other)
              if h1 and h1[H.state] == 'ready' then place(job1, step1, h1, true) end
              place(job, step, h, true)
              may = false
            end
          end
          if not yes then
            hold_back(model, job, step, h)
            look_at_held(model, again)
            may = false
            let_in(own)   -- its tenant's place, if it has one, is for another step
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
      dispatch(job, h, aged)
      enter(h, job, step, now)
      put(job, step, h)
      redis.call('ZADD', P .. 'leases', int(now + A.lease_us), lease_of(job, step, h[H.attempt]))
      event(job, at, 'started', step, A.worker)
      return { tickets, job, step, h[H.attempt], h[H.kind], h[H.label], facts[2], facts[5] or '', number(facts[3]),
               int(h[H.ready]), int(at), h[H.tries] or 0, facts[8] or '0' }
    end
  end
end
return { tickets }
