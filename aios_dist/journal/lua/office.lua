-- office: which worker reconciles. Whoever does counts a beat; a beat that has stopped is nobody's, and one of a release before this makes way.
-- ARGV 1: worker, want, stopped, keep_ms, retention_ms
--   want: "take" (or stay), "look", "leave"; stopped: the beat that the caller has seen for too long, or ''
--   keep_ms: no clock ends an office but this one, which only cleans up after a fleet that has gone
-- returns: {1 when the caller is in office, else 0, beat, now in µs, how often Redis' clock has jumped}
-- flags: allow-oom
-- Another one for each release whose reconciler sees to more (2: parked jobs, and what people are told of ends): a fleet may run both for long.
local SEES_TO = '2'
local k = P .. 'reconciler'
local function read(name) -- whatever stands there, the office can be taken
  local got = redis.pcall('GET', name)
  return type(got) == 'string' and got
end
local beat = read(k) or ''
local count, holder, sees_to = string.match(beat, '^(%d+)|(.*)|(%d+)$')
if not count then
  count, holder = string.match(beat, '^(%d+)|(.*)$') -- of a release that wrote no more
end
local mine = holder == A.worker
local before = number(sees_to) < number(SEES_TO)
if A.want == 'leave' then
  if mine then redis.call('DEL', k) end
  mine = false
elseif A.want == 'take' and (mine or before or beat == A.stopped) then
  beat = int((number(count) + 1) % 1e9) .. '|' .. A.worker .. '|' .. SEES_TO
  redis.call('SET', k, beat, 'PX', A.keep_ms)
  mine = true
end
return { mine and 1 or 0, beat, int(clock()), int(tonumber(read(P .. 'jumps') or '') or 0) }
