-- New jobs, written whole or not at all: shared by submit, extend, fork.
--
-- `half` stands in a job's (or plan's) hash from its first write to its last. What has it is not there for anybody:
-- it is thrown away by the verb that broke, by the next one that submits the same, or by the reconciler (_mend).

-- The digest of a job's record; nil where there is none, or only half of one.
local function known(job)
  local facts = redis.call('HMGET', key('job', job), 'rec', 'half')
  if facts[2] then
    throw_away(job)
    return nil
  end
  return facts[1] and string.sub(facts[1], 1, DIGEST)
end

local created = {}

-- The hash of a new job; the caller adds what it asks for, and says `whole` at the end.
local function create(j, state, more)
  local at, k = stamp(), key('job', j.id)
  mark(j.id)
  created[#created + 1] = j.id
  redis.call('ZADD', P .. 'open', int(at), j.id)
  redis.call('HDEL', P .. 'aside', j.id)   -- of another job under this id
  redis.call('HSET', k, 'half', 1, 'st', state, 'n', 0, 'rec', j.rec, 't0', int(at), 'dg', j.birth, unpack(more))
  redis.call('HSET', k, unpack(j.facts))
  if j.deadline_us > 0 then redis.call('ZADD', P .. 'deadlines', int(clock() + j.deadline_us), j.id) end
end

local function whole(job) redis.call('HDEL', key('job', job), 'half') end

local joined   -- whether the new jobs have become part of what was there before: then they stay
on_error = function()
  local stay = joined and joined()
  for _, job in ipairs(created) do
    if stay then whole(job) else throw_away(job) end
  end
end
