-- extend: more jobs at the tail of a plan, also while it runs or after its last job has ended.
-- ARGV 1: plan, jobs, part, retention_ms
--   jobs: as for submit
--   part: nil where these are all of them, else they are a slice: {dig: tells this extension from others, all: its jobs, first, upto: how many
--     stand before and after it, last: 1 with the last, so_far: what the slices before it were, "", "new" or "same"}
-- returns: {"extended", tickets, more} (without tickets where the same jobs were added before; more: see submit) | {"unknown"}
--   | {"stopped"} (the plan has failed) | {"conflict", id} (nothing is left of it) | {"same"} (so far the same jobs were added before)
--   | {"more", from} (send the slice from there on) | {"again"} (send the same again: what was there is being thrown away)
-- include: members, mend, new
local k, part = key('plan', A.plan), A.part
local field = part and 'x' .. part.dig or '1'
local f = redis.call('HMGET', k, 'st', 'half', field, field .. '>', 'places')
local state, places = f[1], f[5]
if not state or (f[2] and f[2] ~= '') then return { 'unknown' } end
local begun = part and f[3] and f[3] ~= ''
if begun then
  if f[4] then
    if not throw_slice(A.plan, field) then return { 'again' } end
    begun = false
  elseif numbers(f[3])[2] ~= part.first then
    return { 'more', numbers(f[3])[2] }
  end
end
if part and part.first > 0 and not begun and part.so_far ~= 'same' then return { 'more', 0 } end -- it has been thrown away
local function refused(...)
  if begun then give_back(A.plan, field) end
  return { ... }
end
local before, seen, count = nil, {}, 0
for _, j in ipairs(A.jobs) do
  local dig, was = known(j.id, A.plan, field), redis.call('HMGET', key('job', j.id), 'pl', 'of')
  local of = was[1] or was[2] -- one that was retried has been added all the same
  if seen[j.id] or (dig and (dig ~= j.dig or of ~= A.plan or hidden(j.id))) then return refused('conflict', j.id) end
  seen[j.id] = true
  if dig then
    before, count = before or j.id, count + 1
  end
end
if part and part.so_far == 'same' and count < #A.jobs then return { 'conflict', '' } end
if count == #A.jobs and not begun then return part and part.last ~= 1 and { 'same' } or { 'extended', {}, 0 } end
if before then return refused('conflict', before) end
local w = work_of(A.plan)
local root = w and node(w, '0') or cmsgpack.unpack(redis.call('HGET', k, 'node0'))
if state == 'failed' or (root[N.failed] == 1 and root[N.mode] == 'fixed') then return refused('stopped') end

local members = root[N.children]
wrote = true
created.joined = function() return cmsgpack.unpack(redis.call('HGET', k, 'node0'))[N.children] > members end
local own = begun and numbers(f[3])[3] -- a slice is of a node of its own, which becomes one member when it is whole
if part and not own then
  own = redis.call('HINCRBY', k, 'n', 1) - 1
  redis.call(
    'HSET',
    k,
    field,
    int(clock()) .. '|0|' .. int(own),
    'node' .. int(own),
    cmsgpack.pack({ root[N.mode], 0, part.all, 0, 0, root[N.on_failure], 0, 0 })
  )
  stands(A.plan, field, 0, own)
end
local links = {}
for i, j in ipairs(A.jobs) do
  local at = part and part.first + i - 1 or members + i - 1
  links[#links + 1], links[#links + 2] = 'c' .. int(own or 0) .. '.' .. int(at), 'j' .. j.id
end
redis.call('HSET', k, unpack(links))
for _, j in ipairs(A.jobs) do
  local where -- its steps go behind all that the plan has now
  if places then where = { 'pp', '0|' .. int(redis.call('HINCRBY', k, 'next', 1) - 1) .. '|' .. places } end
  create_member(j, A.plan, own or 0, part and field, where)
end
if part and part.last ~= 1 then
  stands(A.plan, field, part.upto, own)
  return { 'more', part.upto }
end
-- From here on they are there: with the count of members, in one command.
local all = redis.call('HGET', k, 'all')
local more = { 'st', 'running', unpack(all and { 'all', int(number(all) + (part and part.all or #A.jobs)) } or {}) }
if part then
  for _, new in ipairs({ 'c0.' .. int(members), 'n' .. int(own), field, '' }) do
    more[#more + 1] = new
  end
end
if not w then w = new_work(A.plan) end
root = node(w, '0')
root[N.children] = members + (part and 1 or #A.jobs)
change(w, '0')
push(w, '0')
flush(w, '', more)
redis.call('PERSIST', k)
if part then
  redis.call('HDEL', k, field)
  redis.call('ZREM', P .. 'plans', A.plan .. '/' .. part.dig)
else
  for _, j in ipairs(A.jobs) do
    whole(j.id)
  end
end
local over = go_on(A.plan) -- a fixed plan at rest, or any fifo plan, takes the newcomers at once
return { 'extended', tickets, over and 0 or 1 }
