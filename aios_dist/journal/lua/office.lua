-- office: which worker reconciles. Whoever does counts a beat; a beat that has stopped is nobody's.
-- ARGV 1: worker, want, stopped, keep_ms, retention_ms
--   want: "take" (or stay), "look", "leave"; stopped: the beat that the caller has seen for too long, or ''
--   keep_ms: no clock ends an office but this one, which only cleans up after a fleet that has gone
-- returns: {1 when the caller is in office, else 0, beat, now in µs, how often Redis' clock has jumped}
local k = P .. 'reconciler'
local function read(name) -- whatever stands there, the office can be taken
  local got = redis.pcall('GET', name)
  return type(got) == 'string' and got
end
local beat = read(k) or ''
local count, holder = string.match(beat, '^(%d+)|(.*)$')
local mine = holder == A.worker
if A.want == 'leave' then
  if mine then redis.call('DEL', k) end
  mine = false
elseif A.want == 'take' and (mine or not holder or beat == A.stopped) then
  beat = int((tonumber(count or '0') + 1) % 1e9) .. '|' .. A.worker
  redis.call('SET', k, beat, 'PX', A.keep_ms)
  mine = true
end
return { mine and 1 or 0, beat, int(clock()), int(tonumber(read(P .. 'jumps') or '') or 0) }
