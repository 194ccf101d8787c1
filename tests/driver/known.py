"""Faults of the journal that are known and not mended yet: mended in memory, so that the driver finds the next.

Each that is mended in the Lua goes from here (its text is not found any more, and the tests say so). Empty is right.
"""

# ruff: noqa: E501 (lines of Lua, as they stand)

from __future__ import annotations

from tests.driver.patched import Change

FENCED = False
"""A claim is told from another by more than its job's id and number: ids used again, Redis put back to a snapshot."""

MENDS: tuple[Change, ...] = (
    Change(
        "what is held goes by age where that is switched on",
        "lane",
        "    unite(key('astray', A.lane), sets)\n",
        """    unite(key('astray', A.lane), sets)
    for _, set in ipairs(sets) do
      local aged = P .. 'heldold:' .. string.sub(set, #P + 6)
      for _, m in ipairs(redis.call('ZRANGE', set, 0, -1)) do
        local job, step = split(m)
        local h = head(job, step)
        if h and h[H.lane] == A.lane then
          if new.oldest > 0 then redis.call('ZADD', aged, int(h[H.ready]), m) else redis.call('ZREM', aged, m) end
        end
      end
    end
""",
    ),
    Change(
        "models that hold steps are known after the second change of rules too",
        "lane",
        "  redis.call('DEL', key('holds', A.lane))   -- who is held from now on is noted anew\n",
        "",
    ),
    Change(
        "a call that is regained counts its tokens once",
        "_limits",
        """    redis.call('ZADD', key('window', model), int(now), lease .. '|' .. int(h[H.est] or 0))
    redis.call('PEXPIRE', key('window', model), 120000)
    redis.call('HINCRBY', key('model', model), 'tok', int(h[H.est] or 0))
""",
        """    local fresh = redis.call('ZADD', key('window', model), int(now), lease .. '|' .. int(h[H.est] or 0))
    redis.call('PEXPIRE', key('window', model), 120000)
    if fresh == 1 then redis.call('HINCRBY', key('model', model), 'tok', int(h[H.est] or 0)) end
""",
    ),
)
