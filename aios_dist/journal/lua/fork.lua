-- fork: a new job with the history of another up to a step; what came before is reused, not paid again.
-- ARGV 1: job, new, step, birth, retention_ms
--   birth: random
-- returns: {status, tickets, more}: "new" (also when it was made before), "unknown", "conflict" (the id is taken), "beyond" (there is no
--   such step), or "more" (of a wide job: a slice is copied, the same again copies the next); more: see cancel
-- include: order, plan, sweep, mend, new

-- A wide job is copied in slices: until the last is there `half` says since when, how far, and the number and the last order of the outcomes.
-- All steps that are copied were there at the first slice, and what a program had seen when it asked for them too: what comes
-- to the other job meanwhile is copied as far as it happens to be met, and is the same history.
local MOST_BYTES = 256 * 1024

-- What a document refers to, and what that does, is copied where it is not there yet. Gives the bytes of it.
local REFERENCE, DEEPEST = '%z(' .. string.rep('.', 16) .. ')', 8 -- aios_dist.model.texts has the same
local function copy_texts(document, depth)
  if string.sub(document, 1, 1) ~= 'r' or depth == 0 then return 0 end
  local bytes, from, to = 0, key('job', A.job), key('job', A.new)
  for address in string.gmatch(document, REFERENCE) do
    local text = redis.call('HEXISTS', to, 'x' .. address) == 0 and redis.call('HGET', from, 'x' .. address)
    if text then
      bytes = bytes + copy_texts(text, depth - 1) + #text
      redis.call('HSET', to, 'x' .. address, text)
    end
  end
  return bytes
end
by_caller = true
local from, to = key('job', A.job), key('job', A.new)
local facts = redis.call('HMGET', from, 'st', 'n', 'rec', 'who', 'pr', 'bt', 'bm', 'ob', 'dl', 'xs', 'dg', 'ch', 'cn', 'tb')
local sliced = wide(A.step) or number(facts[14]) > MOST_BYTES
if not facts[1] or hidden(A.job) then return { 'unknown', {}, 0 } end
local whence, was = A.job .. '/' .. int(A.step), redis.call('HMGET', to, 'half', 'from')
local so_far = was[1] and was[2] == whence and numbers(was[1]) or {}
local goes_on = so_far[4] ~= nil
if not goes_on and known(A.new) then
  local same = not was[1] and was[2] == whence -- the answer was lost
  return { same and 'new' or 'conflict', {}, 0 }
end
if A.step > tonumber(facts[2]) then return { 'beyond', {}, 0 } end
mark(A.new)
if not goes_on then
  local at = stamp()
  so_far = { 0, 0, 0, 0 }
  created[1] = A.new
  event(A.new, at, 'submitted', '', 'fork of ' .. A.job) -- its first, before its hash says of others
  redis.call('ZADD', P .. 'open', int(at), A.new)
  -- Data agents stay so: the birth begins with a letter that says it.
  redis.call(
    'HSET',
    to,
    'half',
    '1',
    'st',
    'running',
    'n',
    A.step,
    'rec',
    facts[3],
    'who',
    facts[4],
    'pr',
    facts[5] or 0,
    't0',
    int(at),
    'from',
    whence,
    'dg',
    string.sub(facts[11] or 'c', 1, 1) .. A.birth
  )
  for i, field in ipairs({ 'bt', 'bm', 'ob', 'dl', 'xs' }) do -- its limits are the job's
    if facts[5 + i] then redis.call('HSET', to, field, facts[5 + i]) end
  end
  if facts[12] then redis.call('HSET', to, 'ch', facts[12], 'cn', int(math.min(A.step, number(facts[13])))) end -- it has the history that this code made
  if facts[9] then redis.call('ZADD', P .. 'deadlines', int(clock() + facts[9] * 1e6), A.new) end
end
local answered, open, bytes = {}, {}, 0
local upto = sliced and math.min(A.step, so_far[2] + STEPS_AT_ONCE) or A.step
for step = so_far[2], upto - 1 do
  if bytes > MOST_BYTES and sliced then
    upto = step
    break
  end
  local h = head(A.job, step)
  local request, outcome = redis.call('HGET', from, 'q' .. step), h[H.order] > 0 and redis.call('HGET', from, 'o' .. step)
  h[H.token], h[H.back] = '', 0
  redis.call('HSET', to, 'q' .. step, request, unpack(outcome and { 'o' .. step, outcome } or {}))
  local list = outcome and answered or open
  list[#list + 1] = { step, h }
  bytes = bytes + #request + (outcome and #outcome or 0) + copy_texts(request, DEEPEST) + copy_texts(outcome or '', DEEPEST)
end
if facts[14] then redis.call('HINCRBY', to, 'tb', int(bytes)) end
table.sort(answered, function(a, b) return a[2][H.order] < b[2][H.order] end)
for order, pair in ipairs(answered) do
  if not sliced then pair[2][H.order] = order end
  put(A.new, pair[1], pair[2])
end
local count, last = so_far[3] + #answered, math.max(so_far[4], #answered > 0 and answered[#answered][2][H.order] or 0)
for _, pair in ipairs(open) do
  local h = pair[2]
  h[H.attempt], h[H.started], h[H.worker], h[H.lost], h[H.tries], h[H.counted] = 0, 0, '', 0, 0, 0
  h[H.charged], h[H.capped], h[H.first] = 0, 0, 0
  local first = redis.call('HGET', from, 'l' .. pair[1]) -- begun anew at its own model
  if first then
    h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$')
  end
  h[H.state] = 'pending'
  put(A.new, pair[1], h)
end
if upto < A.step then
  redis.call('HSET', to, 'half', table.concat({ int(clock()), int(upto), int(count), int(last) }, '|'))
  return { 'more', {}, 0 }
end
redis.call('HSET', to, 'v', int(count), unpack(last > count and { 'og', int(last - count) } or {}))
if not sliced then
  for _, pair in ipairs(open) do
    begin(A.new, pair[1], pair[2])
  end
  need_turn(A.new)
  whole(A.new)
  return { 'new', tickets, 0 }
end
whole(A.new)
created.joined = function() return true end -- (from here on it is there)
local left = follow_all(A.new, 'running', A.step)
need_turn(A.new)
return { 'new', tickets, left and 1 or 0 }
