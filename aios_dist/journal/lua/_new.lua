-- New jobs, written whole or not at all: shared by submit, extend, fork, plans.
--
-- `half` stands in a job's hash from its first write to its last. What has it is not there for anybody: it is thrown away by the
-- verb that broke, by the next one that submits the same, or by the reconciler (_mend). A plan too big for one verb is written in
-- slices: `half` of it (or x<DIG> of an extension) says when the last came and what stands; its jobs point to that (hp). One write makes
-- all of it visible. When nothing has come for ABANDONED it is thrown away, in slices too. A wide fork is
-- copied in slices: `half` says since when, how far, and what is copied (fork).

local function numbers(text)
  local found = {}
  for n in string.gmatch(text or '', '%d+') do
    found[#found + 1] = tonumber(n)
  end
  return found
end

local function abandoned(half) return (numbers(half)[1] or 0) <= clock() - ABANDONED end
local function name_of(plan, field) return field == 'half' and plan or plan .. '/' .. string.sub(field, 2) end

-- A slice stands: `more` are further numbers.
local function stands(plan, field, items, ...)
  local parts = { int(clock()), int(items) }
  for _, n in ipairs({ ... }) do
    parts[#parts + 1] = int(n)
  end
  redis.call('HSET', key('plan', plan), field, table.concat(parts, '|'))
  redis.call('ZADD', P .. 'plans', int(clock() + ABANDONED), name_of(plan, field))
end

-- It will not be whole any more: noted, so that nobody goes on with it.
local function give_back(plan, field)
  local k = key('plan', plan)
  if redis.call('HEXISTS', k, field .. '>') == 0 then redis.call('HSET', k, field .. '>', '0|0') end
  redis.call('ZADD', P .. 'plans', int(clock()), name_of(plan, field))
end

local throw_slice
do -- (a chunk of Lua has 200 locals at the most)
  local MOST_THROWN = 40 -- members and their steps that one verb throws away; a look at one counts half

  -- A slice of it is thrown away. Gives whether that was the last.
  throw_slice = function(plan, field)
    local k = key('plan', plan)
    give_back(plan, field)
    local at, own = numbers(redis.call('HGET', k, field .. '>')), numbers(redis.call('HGET', k, field))[3]
    local i, c = at[1], at[2]
    local last = own or number(redis.call('HGET', k, 'n')) - 1
    if own then i = own end
    local gone, room = {}, MOST_THROWN
    while room > 0 do
      room = room - 0.5
      local packed = i <= last and redis.call('HGET', k, 'node' .. int(i))
      if not packed then
        if own then
          redis.call('HDEL', k, 'node' .. int(own), field, field .. '>', unpack(gone))
        else
          redis.call('UNLINK', k)
        end
        redis.call('ZREM', P .. 'plans', name_of(plan, field))
        return true
      end
      if c >= cmsgpack.unpack(packed)[N.children] then
        i, c = i + 1, 0
      else
        local link = 'c' .. int(i) .. '.' .. int(c)
        local child = redis.call('HGET', k, link)
        if child and string.sub(child, 1, 1) == 'j' then
          local job = string.sub(child, 2)
          local f = redis.call('HMGET', key('job', job), 'hp', 'pl', 'n')
          if f[1] == field and f[2] == plan then
            room = room - 0.5 - number(f[3])
            throw_away(job)
          end
        end
        if child then gone[#gone + 1] = link end
        c = c + 1
      end
    end
    redis.call('HSET', k, field .. '>', int(i) .. '|' .. int(c))
    if own and #gone > 0 then redis.call('HDEL', k, unpack(gone)) end
    return false
  end
end

-- The digest of a job's record; nil where there is none, or only half of one. plan, field: what the caller is writing.
local function known(job, plan, field)
  local facts = redis.call('HMGET', key('job', job), 'rec', 'half', 'hp', 'pl')
  if facts[2] and not abandoned(facts[2]) then return string.sub(facts[1] or '', 1, DIGEST) end -- a wide fork that is being made
  if facts[2] or facts[3] then
    local there, coming = false, false
    if not facts[2] then
      there, coming = staged(facts[4], facts[3])
    end
    if coming and facts[4] == plan and facts[3] == field then
      coming = false -- left over by a slice that broke
    elseif coming then
      local p = redis.call('HMGET', key('plan', facts[4]), facts[3], facts[3] .. '>')
      if p[2] or abandoned(p[1]) then
        give_back(facts[4], facts[3])
        coming = false
      end
    end
    if not there and not coming then
      throw_away(job)
      return nil
    end
  end
  return facts[1] and string.sub(facts[1], 1, DIGEST)
end

local created

-- The hash of a new job; the caller adds what it asks for, and says `whole` at the end. points: what it points to, nil
-- where it is whole at the end of this call.
local function create(j, state, points, more)
  local at, k = stamp(), key('job', j.id)
  mark(j.id)
  created[#created + 1] = j.id
  redis.call('ZADD', P .. 'open', int(at), j.id)
  redis.call('HDEL', P .. 'aside', j.id) -- of another job under this id
  redis.call('HSET', k, points and 'hp' or 'half', points or '1', 'st', state, 'n', 0, 'rec', j.rec, 't0', int(at), 'dg', j.birth, unpack(more))
  redis.call('HSET', k, unpack(j.facts))
  if j.deadline_us > 0 then redis.call('ZADD', P .. 'deadlines', int(clock() + j.deadline_us), j.id) end
end

local function whole(job) redis.call('HDEL', key('job', job), 'half') end

-- Members of plans are written as what they point to; what is seen at once is made whole below.
local function create_member(j, plan, i, points, more)
  create(j, 'waiting', points, { 'pl', plan, 'pn', int(i), unpack(more or {}) })
  event(j.id, stamp(), 'submitted', '')
  if j.decision then apply_turn(j.id, j.decision, 'waiting') end
end

-- created.plan: the key of one that this verb began
-- created.joined: whether the new jobs have become part of what was there before: then they stay
each_call(function()
  created = {}
  on_error = function()
    local stay = created.joined and created.joined()
    if created.plan and not stay then redis.call('DEL', created.plan) end
    for _, job in ipairs(created) do
      if not stay then
        throw_away(job)
      else
        whole(job)
      end
    end
  end
end)
