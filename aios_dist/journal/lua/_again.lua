-- Steps that run again: shared by retry and redo. Who names many says so in several calls: until the last (`rest` is not 1) the job
-- keeps `rt`, so no turn decides anything; should its caller die, the job's turn says the others.

-- A failed step runs again: who reports the failure once more is fenced, its usage has counted, and it begins where it was asked for.
-- `fields`: to be written with its head.
local function run_anew(job, step, h, fields)
  if h[H.token] ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'u|' .. h[H.token], 1
  end
  h[H.token] = ''
  local first = redis.call('HGET', key('job', job), 'l' .. int(step))
  if first then
    h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$')
  end
  redis.call('ZREM', P .. 'dead', member(job, int(step)))
end

-- Failed steps run again of a wide job, or of one of whose outcomes some are left out already (rewound, or a fork). What is answered keeps
-- its order: `og` counts those that are left out.
local function undo(job, numbers, rest)
  local k = key('job', job)
  local f = redis.call('HMGET', k, 'v', 'og', 'dg', 'n')
  local v, left_out, again, fields, gone = number(f[1]), number(f[2]), {}, {}, rest == 1 and {} or { 'rt' }
  local seen = {}
  mark(job)
  for _, step in ipairs(numbers) do
    local h = not seen[step] and head(job, int(step))
    seen[step] = true
    if h and h[H.state] == 'failed' then
      run_anew(job, step, h, fields)
      start_over(h)
      fields[#fields + 1], fields[#fields + 2] = 'h' .. int(step), cmsgpack.pack(h)
      gone[#gone + 1] = 'o' .. int(step)
      again[#again + 1] = { int(step), h }
    end
  end
  local which = {}
  for i, pair in ipairs(again) do
    which[i] = pair[1]
  end
  for step = 0, wide(f[4]) and -1 or steps_of(job, f[4]) - 1 do -- dropped ones have no outcome (those of a wide job follow its state)
    local h = head(job, step)
    if h and h[H.state] == 'dropped' then
      start_over(h)
      fields[#fields + 1], fields[#fields + 2] = 'h' .. step, cmsgpack.pack(h)
      gone[#gone + 1] = 'o' .. step
      again[#again + 1] = { step, h }
    end
  end
  redis.call('HSET', k, 'v', int(v - #which), 'og', int(left_out + #which), 'dg', chain(f[3] or '', 'again ' .. table.concat(which, ' ')), unpack(fields))
  if #gone > 0 then redis.call('HDEL', k, unpack(gone)) end
  for _, pair in ipairs(again) do
    begin(job, pair[1], pair[2])
  end
end

-- Steps run again: those named, and those that were dropped. What is answered stays, in its order, without them.
local function run_again(job, numbers, rest)
  local k = key('job', job)
  local facts = redis.call('HMGET', k, 'n', 'dg', 'og')
  if wide(facts[1]) or facts[3] then return undo(job, numbers, rest) end
  local undone, outcomes, again, fields, gone = {}, {}, {}, {}, rest == 1 and {} or { 'rt' }
  for _, step in ipairs(numbers) do
    undone[step] = true
  end
  mark(job)
  local function rewrite(step, h)
    fields[#fields + 1], fields[#fields + 2] = 'h' .. step, cmsgpack.pack(h)
    if #fields >= 2 * MOST_AT_ONCE then
      redis.call('HSET', k, unpack(fields))
      fields = {}
    end
  end
  for step = 0, steps_of(job, facts[1]) - 1 do
    local h = head(job, step)
    if undone[step] and h[H.state] == 'failed' then
      run_anew(job, step, h, fields)
      again[#again + 1] = { step, h }
    elseif h[H.state] == 'dropped' then
      again[#again + 1] = { step, h }
    elseif h[H.order] > 0 then
      outcomes[#outcomes + 1] = { step, h }
    end
  end
  table.sort(outcomes, function(a, b) return a[2][H.order] < b[2][H.order] end)
  for nth, pair in ipairs(outcomes) do
    if pair[2][H.order] ~= nth then
      pair[2][H.order] = nth
      rewrite(pair[1], pair[2])
    end
  end
  for _, pair in ipairs(again) do
    local step, h = pair[1], pair[2]
    start_over(h)
    rewrite(step, h)
    gone[#gone + 1] = 'o' .. step -- an outcome whose head says that there is none counts for nobody
  end
  local which = {}
  for i, pair in ipairs(again) do
    which[i] = pair[1]
  end
  local proof = chain(facts[2] or '', 'again ' .. table.concat(which, ' '))
  redis.call('HSET', k, 'v', #outcomes, 'dg', proof, unpack(fields))
  for at = 1, #gone, MOST_AT_ONCE do
    redis.call('HDEL', k, unpack(gone, at, math.min(#gone, at + MOST_AT_ONCE - 1)))
  end
  for _, pair in ipairs(again) do
    begin(job, pair[1], pair[2])
  end
end
