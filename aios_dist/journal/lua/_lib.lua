-- Shared by every verb; the loader puts it in front of each. No side effects of its own.
--
-- KEYS 1 is the fleet's prefix ("aios:{name}:"), ARGV 1 one MessagePack map with the fields that the
-- verb's header names. Blobs (requests, outcomes, records) are opaque here: Python encodes them.
--
-- job:ID   st state, v outcomes written, n steps asked for, op steps without outcome, rec record,
--          dig digest of the record, pl/pn plan and its node, up/uo/uc usage, res result, t0/t1 times,
--          h<N> head of step N, q<N> its request, o<N> its outcome, ht the head of the job's turn,
--          e<N> the error of its last failed try, l<N> lane and model of a step that went to another model, wake a turn that waits for the end of a pause,
--          g<NAME> signals that came before anyone waited for them, tn tenant,
--          bt/bm/ob budget in tokens and micro-money and what to do then, um micro-money spent
--          why a pause's reason, ends the end of turn 0 of a job not admitted, from what it is a fork of
-- head     see H below; one array, so that a step costs one field

local P = KEYS[1]
local A = cmsgpack.unpack(ARGV[1])

local H = { kind = 1, lane = 2, state = 3, attempt = 4, base = 5, from_ready = 6, rank = 7, ready = 8,
            started = 9, ended = 10, order = 11, worker = 12, digest = 13, label = 14, lost = 15,
            tries = 16, est = 17, after = 18, counted = 19 }
local TURN = 't'

local tickets = {}   -- lane, job, step, lane, job, step, …: what the caller is to publish

local function key(kind, id) return P .. kind .. ':' .. id end
local function int(n) return string.format('%.0f', n) end

-- µs since the epoch on Redis' clock: what leases and timers end by.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- The same, but never twice in a fleet and never backwards: the order of becoming ready.
local function stamp()
  local now = clock()
  local last = tonumber(redis.call('GET', P .. 'clock') or '0')
  if now <= last then now = last + 1 end
  redis.call('SET', P .. 'clock', int(now))
  return now
end

local function event(job, at, what, step, extra)
  redis.call('RPUSH', key('ev', job), cmsgpack.pack({ int(at), what, tostring(step), extra or '' }))
  redis.call('PUBLISH', key('ev', job), what)
end

local function head(job, step)
  local packed = redis.call('HGET', key('job', job), 'h' .. step)
  return packed and cmsgpack.unpack(packed) or nil
end

local function put(job, step, h)
  redis.call('HSET', key('job', job), 'h' .. step, cmsgpack.pack(h))
end

local function member(job, step) return job .. '/' .. step end
local function lease_of(job, step, attempt) return job .. '/' .. step .. '#' .. int(attempt) end
local function split(m) return string.match(m, '^(.*)/([^/]*)$') end

-- The step waits on its lane from now on; its rank is decided here, once.
local function make_ready(job, step, h)
  local at = stamp()
  h[H.ready] = at
  h[H.rank] = h[H.base] + (h[H.from_ready] == 1 and at or 0)
  h[H.state] = 'ready'
  put(job, step, h)
  redis.call('ZADD', key('ready', h[H.lane]), string.format('%.17g', h[H.rank]), member(job, step))
  event(job, at, 'ready', step, h[H.label])
  tickets[#tickets + 1] = h[H.lane]
  tickets[#tickets + 1] = job
  tickets[#tickets + 1] = step
end

-- A step that was ready before waits again, with the rank that it had.
local function back(job, step, h, at, why)
  h[H.state] = 'ready'
  put(job, step, h)
  redis.call('ZADD', key('ready', h[H.lane]), string.format('%.17g', h[H.rank]), member(job, step))
  event(job, at, 'released', step, why)
  tickets[#tickets + 1] = h[H.lane]
  tickets[#tickets + 1] = job
  tickets[#tickets + 1] = step
end

-- The job's program has to be run; not by us. It runs as a step on the lane `turns`, once at a time.
local function need_turn(job)
  if redis.call('HGET', key('job', job), 'st') == 'paused' then
    redis.call('HSET', key('job', job), 'wake', 1)
    return
  end
  local h = head(job, TURN)
  if h and (h[H.state] == 'ready' or h[H.state] == 'leased') then return end
  h = { 'turn', 'turns', 'idle', h and h[H.attempt] or 0, 0, 1, 0, 0, 0, 0, 0, '', '', 'turn', 0, 0, 0, 0, 0 }
  make_ready(job, TURN, h)
end

local function due_later(job, after_us)
  redis.call('ZADD', P .. 'due', int(clock() + after_us), job)
end
