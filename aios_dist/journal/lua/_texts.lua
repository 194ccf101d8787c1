-- The texts of a job: what its requests and outcomes refer to, each once, in one hash. aios_dist.model.texts takes documents apart; here a
-- text is what it is. Shared by what writes outcomes and steps.

local texts = {} -- (a chunk of Lua has 200 locals at the most)
do
  local ADDRESS = 16 -- aios_dist.model.texts has the same

  -- Writes texts: address, text, address, … They are there before what refers to them.
  texts.keep = function(job, flat)
    if not flat or #flat == 0 then return end
    local k, j = key('text', job), key('job', job)
    mark(job)
    local bytes = 0
    for n = 1, #flat, 2 do
      -- (sent again it is the same)
      if redis.call('HSET', k, flat[n], flat[n + 1]) == 1 then bytes = bytes + #flat[n + 1] end
    end
    local before = redis.call('HGET', j, 'tb')
    redis.call('HSET', j, 'tb', int(number(before) + bytes))
    local left = redis.call('PTTL', j)
    if left > 0 then redis.call('PEXPIRE', k, left) end -- an answer that came when its job had ended
  end

  -- Whether one is missing. Who asks for a step sends what he does not know to be there, and what he knows may be gone: Redis was put back.
  texts.lack = function(job, needs)
    local k = key('text', job)
    for at = 1, #needs, ADDRESS do
      if redis.call('HEXISTS', k, string.sub(needs, at, at + ADDRESS - 1)) == 0 then return true end
    end
    return false
  end

  -- An ended job is kept for a while; its own hash last: one that expires has nothing that does not.
  texts.let_expire = function(job)
    redis.call('PEXPIRE', key('text', job), A.retention_ms)
    redis.call('PEXPIRE', key('ev', job), A.retention_ms)
    redis.call('PEXPIRE', key('job', job), A.retention_ms)
  end
end
