-- onward: an outcome, the tickets of what it has made ready, and the next step for the slot that it frees: one round trip.
-- ARGV 1: commit, claim, lanes, shy, lists, form, retention_ms
--   commit, claim: what these verbs take; of a claim all but its lane and `sought`, and nil where the slot takes nothing
--   lanes: {lane, sought}, …: where it looks, in this order
--   shy: the kin of workers to which the slot leaves what they may have room for; '': it leaves them nothing
--   lists: what stands before a lane in the name of its list of tickets; form: a ticket, see ticket_of
-- returns: {what commit returns (its tickets are on their lists), lane, what claim returns, ticket}; lane: '' where nothing was
--   claimed; ticket: the one that was taken off for it, '' where one of this write was left out
-- include: waiting, limits, sweep, mend
-- verbs: commit, claim
local asked = A
A = asked.commit
local done = commit()
let_in_freed()

-- How many tickets there are. What is no list is the reconciler's to report: then there are none, and nobody adds one.
local function lying(lane)
  local count = redis.pcall('LLEN', asked.lists .. lane)
  return type(count) == 'number' and count or nil
end

local function made_for(lane)
  local made = 0
  for n = 1, #tickets, 3 do
    if tickets[n] == lane then made = made + 1 end
  end
  return made
end

-- A slot goes on with what nobody has taken a ticket for: who has one comes for the step, and may be idle. And with nothing, where
-- the outcome's own turn is still to be run. Where the answer to the same was lost, with what it got then, and no other: unless this
-- call has written the outcome, so that there was none before it (when Redis is back, hundreds ask again, and a look costs all leases).
local WRITTEN = { advanced = true, ended = true, paused = true }
local from, got, spent = '', nil, true
if asked.claim and done[1] ~= 'turn' and done[1] ~= 'lacking' then
  local again = asked.claim.again == 1 and not WRITTEN[done[1]]
  asked.claim.again = again and 2 or 0
  for _, one in ipairs(asked.lanes) do
    local lane = one[1]
    local room = asked.shy ~= '' and redis.pcall('GET', key('room', lane .. '|' .. asked.shy))
    local others = room and room ~= asked.claim.worker
    if again or (not others and not exhausted() and made_for(lane) + (lying(lane) or 0) > 0) then
      A = asked.claim
      A.lane, A.sought = lane, one[2]
      got = claim()
      if #got > 4 then
        from, spent = again and head(got[2], got[3])[H.lane] or lane, again
        let_in_freed()
      end
      if again or from ~= '' then break end
    end
  end
  A = asked.commit
end

-- A ticket as Celery reads it: `form` has "<id>", "<step>" and "<lane>" in the places of these.
local function ticket_of(lane, job, step, n)
  return (
    string.gsub(asked.form, '"<(%a+)>"', {
      id = cjson.encode(asked.commit.token .. '.' .. n),
      step = cjson.encode("['" .. job .. "', '" .. step .. "']"),
      lane = cjson.encode(lane),
    })
  )
end

-- As many tickets as ready steps lack (see publish), less the one that the slot has used: else one that lies there is spent.
local missing, taken = {}, ''
if not spent and made_for(from) == 0 then
  taken = redis.pcall('RPOP', asked.lists .. from)
  spent = true
end
for n = 1, #tickets, 3 do
  local lane, job, step = tickets[n], tickets[n + 1], tickets[n + 2]
  if lane == from and not spent then
    spent = true
  else
    if not missing[lane] then
      local count = lying(lane)
      missing[lane] = count and waiting_on(lane, true) - count or 0
    end
    if missing[lane] > 0 then
      redis.call('LPUSH', asked.lists .. lane, ticket_of(lane, job, step, n))
      missing[lane] = missing[lane] - 1
    end
  end
end
for n = #tickets, 1, -1 do
  tickets[n] = nil -- what is let in after this, the caller publishes
end
return { done, from, got or {}, type(taken) == 'string' and taken or '' }
