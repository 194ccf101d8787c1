-- claim: the best ready step of a lane, leased to a worker.
-- ARGV 1: lane, worker, lease_us
-- returns: {} when nothing is ready, else {job, step, attempt, kind, label, record, request, version, ready, started}
local lane = key('ready', A.lane)
while true do
  local top = redis.call('ZPOPMIN', lane)
  if #top == 0 then return {} end
  local job, step = split(top[1])
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'st', 'rec', 'v', 'h' .. step, 'q' .. step)
  if facts[1] == 'running' and facts[4] then
    local h = cmsgpack.unpack(facts[4])
    if h[H.state] == 'ready' then
      local at = stamp()
      h[H.state] = 'leased'
      h[H.attempt] = h[H.attempt] + 1
      h[H.started] = at
      h[H.worker] = A.worker
      put(job, step, h)
      redis.call('ZADD', P .. 'leases', int(clock() + A.lease_us), lease_of(job, step, h[H.attempt]))
      event(job, at, 'started', step, A.worker)
      return { job, step, h[H.attempt], h[H.kind], h[H.label], facts[2], facts[5] or '', facts[3],
               int(h[H.ready]), int(at) }
    end
  end
end
