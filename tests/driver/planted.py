"""Bugs to be planted in the Lua, one at a time: the driver has to find each.

A change of the Lua may make one out of date (:class:`Outdated`): then plant the same bug in the new text.
"""

# ruff: noqa: E501 (lines of Lua, as they stand)

from __future__ import annotations

import random
from typing import NamedTuple

from tests.driver.core import Broken
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.known import MENDS
from tests.driver.patched import Change

MOVES = 150
SEEDS = range(24)

BUGS: tuple[Change, ...] = (
    Change("a step is put on no lane", "_order", """  redis.call('ZADD', key(shelf, own), exact(h[H.rank]), m)
""", """  if h[H.order] ~= 0 or h[H.attempt] ~= 2 then redis.call('ZADD', key(shelf, own), exact(h[H.rank]), m) end
"""),
    Change("what is taken off a shelf stays on it by age", "_order",
           """  redis.call('ZREM', key(shelf .. 'old', compartment(name, tenant)), m)
""", ""),
    Change("a tenant without steps is still among those who wait", "_order",
           """  if tenant and redis.call('EXISTS', set) == 0 then redis.call('ZREM', key(shelf .. 'by', name), tenant) end
""", ""),
    Change("a tenant that begins to wait is not noted", "_order",
           """  if tenant then redis.call('ZADD', key(shelf .. 'by', name), counter(lane, tenant), tenant) end
""", ""),
    Change("an outdated rank goes on the lane", "_order",
           """  if outdated(h) then
    redis.call('ZADD', key('stray', lane)""", """  if outdated(h) and h[H.attempt] > 0 then
    redis.call('ZADD', key('stray', lane)"""),
    Change("what was charged is not settled", "_order", """  h[H.charged] = 0
  taken =""", """  taken ="""),
    Change("a turn is made ready while one runs", "_order",
           """(before[H.state] == 'ready' or before[H.state] == 'leased') then return end""",
           """before[H.state] == 'ready' then return end"""),
    Change("a turn that is due in a pause is forgotten", "_order",
           """    redis.call('HSET', key('job', job), 'wake', 1)
    return
""", """    return
"""),
    Change("the place in flight of a tenant's call is not given back", "_limits",
           """    redis.call('ZREM', key('inflight', own), lease)
""", ""),
    Change("the place in flight of a call is not given back", "_limits",
           """  redis.call('ZREM', key('inflight', model), lease)
""", ""),
    Change("what was held is let in without leaving the held", "_limits",
           """    take_from('held', model, top, tenant)
    if h and""", """    if h and"""),
    Change("an estimate stays beside what the call took", "_limits",
           """    redis.call('ZREM', key('window', model), entry)
""", ""),
    Change("the window's sum is not put right", "_limits",
           """    redis.call('HINCRBY', key('model', model), 'tok', int(tokens - (h[H.est] or 0)))
""", ""),
    Change("a hold does not hold", "_limits", "  if held > now then return false, held end\n", ""),
    Change("a limit of calls is one too high", "_limits",
           "if most > 0 and busy >= most then", "if most > 0 and busy > most then"),
    Change("requests a minute are one too many", "_limits", "count >= rpm", "count > rpm"),
    Change("who holds steps of a lane is not noted", "_limits",
           "  redis.call('ZADD', key('holds', lane), 0, model)\n", ""),
    Change("a tenant's money is spent as tokens", "_limits",
           "redis.call('HINCRBY', k, 'mic', int(micros))", "redis.call('HINCRBY', k, 'tok', int(micros))"),
    Change("an outcome leaves the lease", "_plan",
           """  redis.call('ZREM', P .. 'leases', lease_of(job, step, h[H.attempt]))
""", ""),
    Change("a sleep has no timer", "_plan",
           """    redis.call('ZADD', P .. 'timers', int(clock() + h[H.after]), member(job, step))
""", ""),
    Change("a signal that came early is lost", "_plan", "    if kept then   -- it", "    if kept and h[H.attempt] > 0 then   -- it"),
    Change("a deadline outlives its job", "_plan", "  redis.call('ZREM', P .. 'deadlines', job)\n", ""),
    Change("an ended job stays open", "_plan", "  redis.call('ZREM', P .. 'open', job)\n", ""),
    Change("a plan hears twice of a member", "_plan", "facts[1] ~= 'waiting' and not silent then",
           "not silent then"),
    Change("a fixed plan admits two at once", "_plan", "v[N.mode] ~= 'fixed' or v[N.ended] == v[N.admitted]",
           "v[N.mode] ~= 'fixed' or v[N.ended] + 1 >= v[N.admitted]"),
    Change("a pause leaves steps on the lane", "_plan", """      set_aside(job, step, h)
      h[H.state] = 'parked'
""", """      h[H.state] = 'parked'
"""),
    Change("a job's end leaves its turn on the lane", "_plan", """    take(job, TURN, turn)
    redis.call('ZREM', P .. 'timers', member(job, TURN))
    if turn[H.state] == 'ready' then
""", """    if turn[H.state] == 'ready' then
"""),
    Change("a step is leased without a lease", "claim",
           """      redis.call('ZADD', P .. 'leases', int(now + A.lease_us), lease_of(job, step, h[H.attempt]))
""", ""),
    Change("a budget is looked at too late", "claim", "local spent = over_budget(job, tenant)",
           "local spent = h[H.attempt] > 0 and over_budget(job, tenant)"),
    Change("no turn is due after a commit", "commit", "due_later(A.job, A.grace_us)\n", ""),
    Change("the fence is open", "commit", "local mine = h[H.attempt] == A.attempt",
           "local mine = h[H.attempt] <= A.attempt + 1"),
    Change("prompt tokens are counted as output", "commit", "redis.call('HINCRBY', k, 'up', A.prompt_tokens)",
           "redis.call('HINCRBY', k, 'uo', A.prompt_tokens)"),
    Change("a late answer leaves its step on the lane", "commit",
           "if h[H.state] == 'ready' or h[H.state] == 'parked' then set_aside(A.job, A.step, h) end\n", ""),
    Change("a stale decision is taken", "advance",
           "if A.decision.version ~= version then return { 'stale', version, {} } end\n", ""),
    Change("a turn that is over is still leased", "advance", "    h[H.state] = 'idle'\n", ""),
    Change("a step given back in a pause is ready", "release", "state == 'paused' and 'parked' or 'dropped'",
           "state == 'paused' and 'ready' or 'dropped'"),
    Change("who gave a step back may renew it", "release", "h[H.started] = 0 ", "local _ = 0 "),
    Change("a renewal takes what somebody else has", "renew", " and h[H.attempt] == tonumber(attempt)", ""),
    Change("a resumed step waits nowhere", "resume",
           "if h[H.state] == 'parked' then back(A.job, step, h, at, 'resumed') end",
           "if h[H.state] == 'parked' then h[H.state] = 'ready' put(A.job, step, h) end"),
    Change("a lost worker keeps its place", "reap",
           "    leave(h, job, step, h[H.est] or 0, false)   -- what", "    -- what"),
    Change("a lease that ended is forgotten", "reap",
           "      back(job, step, h, stamp(), 'lease ended', true)\n",
           "      h[H.state] = 'ready' put(job, step, h)\n"),
    Change("a sleep is over and no turn is called for", "reap", """write_outcome(job, step, h, true, A.slept_outcome, stamp())
      need_turn(job)
""", """write_outcome(job, step, h, true, A.slept_outcome, stamp())
"""),
    Change("a priority changes the rank and not the place", "rerank",
           "if state == 'ready' and move(A.job, step, h) then moved = moved + 1 end", "moved = moved + 1"),
    Change("a rank that was made anew leaves the stray", "strays",
           "if redis.call('ZREM', key('stray', A.lane), s.name) == 1 then place",
           "if redis.call('ZSCORE', key('stray', A.lane), s.name) then place"),
    Change("a retried job stays among the ended", "retry", "redis.call('ZREM', P .. 'ended', A.job)\n", ""),
    Change("a fork begins with somebody's claim", "fork",
           "h[H.attempt], h[H.started], h[H.worker], h[H.lost], h[H.tries], h[H.counted] = 0, 0, '', 0, 0, 0",
           "h[H.started], h[H.worker], h[H.tries], h[H.counted] = 0, '', 0, 0"),
    Change("other rules leave the lane by age as it is", "lane",
           "  redis.call('UNLINK', key('readyby', A.lane), key('readyold', A.lane))\n",
           "  redis.call('UNLINK', key('readyby', A.lane))\n"),
    Change("a job that is added is not open", "extend", "  redis.call('ZADD', P .. 'open', int(at), j.id)\n", ""),
)  # fmt: skip
"""Each would be a fault of the journal's own."""


class Find(NamedTuple):
    """How a bug was found: the run's seed, moves of all runs until then, what was broken."""

    seed: int
    moves: int
    broken: str


def find(url: str, name: str, bug: Change) -> Find | None:
    """Let the driver run until it finds the bug, the seed that found it last time first; None when it does not.

    Raises:
        Outdated: the bug's text is not in the Lua any more.
    """
    moves = 0
    first = FOUND_BY.get(bug.name, 0)
    for seed in (first, *(seed for seed in SEEDS if seed != first)):
        fleet = Fleet(url, f"{name}-{seed}", [*MENDS, bug])
        driver = Driver(fleet, random.Random(seed))
        try:
            for _ in range(MOVES):
                driver.move()
            driver.drain()
        except Broken as exc:
            return Find(seed, moves + len(driver.said), str(exc).partition("\n")[0])
        finally:
            moves += len(driver.said)
            fleet.close()
    return None


FOUND_BY: dict[str, int] = {
    "a step is put on no lane": 2,
    "what is taken off a shelf stays on it by age": 1,
    "a turn is made ready while one runs": 1,
    "a turn that is due in a pause is forgotten": 15,
    "a hold does not hold": 3,
    "requests a minute are one too many": 9,
    "a deadline outlives its job": 1,
    "a plan hears twice of a member": 1,
    "the fence is open": 7,
    "a stale decision is taken": 6,
    "a step given back in a pause is ready": 3,
    "who gave a step back may renew it": 2,
    "a renewal takes what somebody else has": 22,
    "a priority changes the rank and not the place": 1,
    "a fork begins with somebody's claim": 11,
    "other rules leave the lane by age as it is": 11,
}
"""Seeds that found a bug soonest when they were last looked for (``python -m tests.driver --planted``)."""
