-- The texts of a job: what its requests and outcomes refer to, each once, in the job's hash, under x and its address. aios_dist.model.texts
-- takes documents apart; here a text is what it is. Shared by what writes outcomes and steps.
local texts = {} -- (a chunk of Lua has 200 locals at the most)
do
  local ADDRESS = 16 -- aios_dist.model.texts has the same
  local AT_ONCE = 2000 -- fields in one command
  local LARGE = 16384 -- a job that has nothing larger, and is not wide, is not counted: it holds a megabyte at the most

  -- Bytes of a job that has not been counted so far; it has no texts.
  local function count(job)
    local names, bytes = {}, 0
    for step = 0, steps_of(job, redis.call('HGET', key('job', job), 'n')) - 1 do
      names[#names + 1], names[#names + 2] = 'q' .. int(step), 'o' .. int(step)
    end
    for at = 1, #names, AT_ONCE do
      for _, value in ipairs(redis.call('HMGET', key('job', job), unpack(names, at, math.min(#names, at + AT_ONCE - 1)))) do
        if value then bytes = bytes + #value end
      end
    end
    return bytes
  end

  -- What a job holds with a document more, where that is to be noted: `tb` is what its hash says so far, `more` the bytes, `anyway`: it is
  -- counted from now on, however small that is.
  texts.held = function(job, tb, more, anyway)
    if tb then return int(number(tb) + more) end
    if more > LARGE or anyway then return int(count(job) + more) end
    return nil
  end

  -- Writes texts: address, text, address, … They are there before what refers to them, and counted with what is written.
  texts.keep = function(job, flat)
    if not flat or #flat == 0 then return end
    local k = key('job', job)
    mark(job)
    local tb = redis.call('HGET', k, 'tb')
    local bytes, fields = tb and number(tb) or count(job), {}
    for n = 1, #flat, 2 do
      local field = 'x' .. flat[n]
      if not tb or redis.call('HEXISTS', k, field) == 0 then
        bytes = bytes + #flat[n + 1]
        fields[#fields + 1], fields[#fields + 2] = field, flat[n + 1]
      end
      if #fields == AT_ONCE or (n + 2 > #flat and #fields > 0) then
        redis.call('HSET', k, 'tb', int(bytes), unpack(fields))
        fields = {}
      end
    end
  end

  -- Whether one is missing. Who asks for a step sends what he does not know to be there, and what he knows may be gone: Redis was put back.
  texts.lack = function(job, needs)
    for at = 1, #needs, ADDRESS do
      if redis.call('HEXISTS', key('job', job), 'x' .. string.sub(needs, at, at + ADDRESS - 1)) == 0 then return true end
    end
    return false
  end

  -- Whether a job would hold more than it may with what its turn asks for; then that says why it parks.
  texts.too_many = function(job, decision)
    local k = key('job', job)
    local tb = redis.call('HGET', k, 'tb')
    local bytes = 0
    for _, s in ipairs(decision.steps) do
      bytes = bytes + #s.request
    end
    for n = 1, #(decision.texts or {}), 2 do
      if redis.call('HEXISTS', k, 'x' .. decision.texts[n]) == 0 then bytes = bytes + #decision.texts[n + 1] end
    end
    bytes = tonumber(texts.held(job, tb, bytes) or 0)
    if bytes <= decision.most then return false end
    local said = string.format('it would hold %.0f bytes of requests and answers, more than job_limit (%.0f)', bytes, decision.most)
    decision.parks = { why = said, said = said, need = 'limit' }
    return true
  end
end
