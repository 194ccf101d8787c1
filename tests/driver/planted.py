"""Bugs to be planted in the Lua, one at a time: the driver has to find each.

A change of the Lua may make one out of date (:class:`Outdated`): then plant the same bug in the new text.
"""

# ruff: noqa: E501 (lines of Lua, as they stand)

from __future__ import annotations

import random
from typing import NamedTuple

from aios_dist.errors import JournalError
from tests.driver.core import Broken
from tests.driver.driver import Driver
from tests.driver.fleet import Fleet
from tests.driver.injected import Injector, inject
from tests.driver.known import MENDS, WIDE
from tests.driver.patched import Change

MOVES = 150
SEEDS = range(40)
SCENES_FROM = 24
"""Seeds from this one on are of drivers that play scenes too: what chance finds is found without them."""

BUGS: tuple[Change, ...] = (
    Change("a step is put on no lane", "_order", "  if redis.call('ZADD', key(shelf, own), last and",
           "  if (h[H.order] ~= 0 or h[H.attempt] ~= 2) and redis.call('ZADD', key(shelf, own), last and"),
    Change("what is taken off a shelf stays on it by age", "_order",
           """  redis.call('ZREM', key(shelf .. 'old', compartment(name, tenant)), m) -- also one that is left over there
""", ""),
    Change("a tenant without steps is still among those who wait", "_order",
           """    redis.call('ZREM', key(shelf .. 'by', name), tenant)
    if string.sub""", """    if string.sub"""),
    Change("a tenant that begins to wait is not noted", "_order",
           "  elseif shelf == 'ready' or not scaled(name) then\n", "  elseif shelf == 'ready' then return\n  elseif not scaled(name) then\n"),
    Change("an outdated rank goes on the lane", "_order", "  if outdated(h) or last then", "  if outdated(h) and h[H.attempt] > 0 or last then"),
    Change("what comes since the rules changed is never put where it belongs", "strays",
           "      place(job, step, h, false, nil, nil, true)\n      placed", "      placed"),
    Change("what was charged is not settled", "_order", """    h[H.charged] = 0
    taken =""", """    taken ="""),
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
  local at =""", """  local at ="""),
    Change("what was held is let in without leaving the held", "_limits",
           "local was_held = take_from('held', model, top, part)", "local was_held = true"),
    Change("an estimate stays beside what the call took", "_limits",
           """    redis.call('ZREM', key('window', model), entry)
""", ""),
    Change("the window's sum is not put right", "_limits",
           """    add('HINCRBY', key('model', model), 'tok', int(tokens - (h[H.est] or 0)))
""", ""),
    Change("a hold does not hold", "_limits", "  if held > now then return false, held end\n", ""),
    Change("a limit of calls is one too high", "_limits",
           "if most > 0 and busy >= most then", "if most > 0 and busy > most then"),
    Change("requests a minute are one too many", "_limits", "count >= rpm", "count > rpm"),
    Change("who holds steps of a lane is not noted", "_limits",
           "  redis.call('ZADD', key('holds', lane), 0, model)\n", ""),
    Change("a tenant's tokens are spent as money", "_budgets",
           "'mic', decimal(number(s[2]) + micros))", "'mic', decimal(number(s[2]) + tokens))"),
    Change("an outcome leaves the lease", "_plan",
           """  redis.call('ZREM', P .. 'leases', lease_of(job, step, h))
""", ""),
    Change("a sleep has no timer", "_plan",
           """    redis.call('ZADD', P .. 'timers', int(clock() + h[H.after]), member(job, step))
""", ""),
    Change("a signal that came early is lost", "_plan", "  if not blob then return false end",
           "  if not blob or h[H.after] == 0 then return false end"),
    Change("a deadline outlives its job", "_plan", "  redis.call('ZREM', P .. 'deadlines', job)\n", ""),
    Change("an ended job stays open", "_plan", "  redis.call('ZREM', P .. 'open', job)\n", ""),
    Change("a plan hears twice of a member", "_plan", "facts[4] and facts[1] ~= 'waiting' and not silent and about",
           "facts[4] and not silent and about"),
    Change("a fixed plan admits two at once", "_members", "v[N.mode] ~= 'fixed' or v[N.ended] == k)",
           "v[N.mode] ~= 'fixed' or v[N.ended] + 1 >= k)"),
    Change("a plan that is cut short is left so", "_members", "if redis.call('ZADD', P .. 'plans', int(clock()), plan) == 1 then",
           "if false then"),
    Change("what a plan has left to do is forgotten", "_members", "local fields = { 'todo', table.concat(w.todo, ' '),",
           "local fields = { 'todo', '',"),
    Change("members that are dropped are not counted", "_members", "    w.far[3] = w.far[3] + 1\n", ""),
    Change("a group of a plan that has failed runs on", "_members", "      node(w, id)[N.dropped] = 1\n", ""),
    Change("a pause leaves steps on the lane", "_sweep", """        set_aside(job, step, h)
        h[H.state] = 'parked'
""", """        h[H.state] = 'parked'
"""),
    Change("a job's end leaves its turn on the lane", "_plan", """    set_aside(job, TURN, turn)
    if turn[H.state] == 'ready' then
""", """    if turn[H.state] == 'ready' then
"""),
    Change("a step is leased without a lease", "claim",
           """    redis.call('ZADD', P .. 'leases', int(s.now + A.lease_us), lease_of(job, step, h))
""", ""),
    Change("a budget is looked at too late", "claim", "local spent = over_budget(s.job, s.tenant)",
           "local spent = h[H.attempt] > 0 and over_budget(s.job, s.tenant)"),
    Change("no turn is due after a commit", "commit", "due_later(A.job, A.grace_us)\n", ""),
    Change("the fence is open", "commit", "local mine, version, proof = h[H.token] == A.token and not forgotten,",
           "local mine, version, proof = true,"),
    Change("no late answer is taken", "commit", "local free = h[H.state] == 'ready' or", "local free ="),
    Change("a commit's decision need not know where the job stands", "commit", "A.decision.basis == (facts[5] or '') and ", ""),
    Change("prompt tokens are counted as output", "commit", "add_used('up', facts[6], prompt)", "add_used('uo', facts[7], prompt)"),
    Change("a late answer leaves its step on the lane", "commit",
           "if h[H.state] == 'ready' or h[H.state] == 'parked' then set_aside(A.job, A.step, h) end\n", ""),
    Change("a stale decision is taken", "advance",
           "A.decision.basis ~= (facts[4] or '') or ", ""),
    Change("a decision is taken before a retry is judged", "advance", " or retried", ""),
    Change("another's turn is over", "advance", "if h and h[H.token] == A.token then", "if h then"),
    Change("a turn that is over is still leased", "advance", "    h[H.state] = 'idle'\n", ""),
    Change("a step given back in a pause is ready", "release", "state == 'paused' and 'parked' or 'dropped'",
           "state == 'paused' and 'ready' or 'dropped'"),
    Change("who gave a step back may renew it", "release", "h[H.started] = 0 ", "local _ = 0 "),
    Change("steps that are given back are not counted", "release", "h[H.back] = (h[H.back] or 0) + 1", "h[H.back] = 1"),
    Change("a signal that is sent again is the next one", "signal", "if facts[3] then return { facts[3], {} } end\n", ""),
    Change("signals are kept without end", "signal", "kept >= A.most", "false"),
    Change("who gives a step back need not hold it", "release", " or h[H.token] ~= A.token", ""),
    Change("a lease that is gone is taken up from another job", "regain", " and birth_of(facts[2] or '') == c.birth", ""),
    Change("a lease is taken up whoever has had the step since", "regain", "h[H.attempt] < c.attempt", "h[H.attempt] <= c.attempt"),
    Change("a resumed step waits nowhere", "_sweep", "back(job, step, h, stamp(), 'resumed')",
           "h[H.state] = 'ready' put(job, step, h)"),
    Change("a lost worker keeps its place", "reap",
           "      leave(h, job, step, h[H.est] or 0, false) -- what", "      -- what"),
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
           "if redis.call('ZREM', key('stray', A.lane), s.name) == 1 then",
           "if redis.call('ZSCORE', key('stray', A.lane), s.name) then"),
    Change("a retried job stays among the ended", "retry", "redis.call('ZREM', P .. 'ended', A.job)\n", ""),
    Change("a fork begins with somebody's claim", "fork",
           "h[H.attempt], h[H.started], h[H.worker], h[H.lost], h[H.tries], h[H.counted] = 0, 0, '', 0, 0, 0",
           "h[H.started], h[H.worker], h[H.tries], h[H.counted] = 0, '', 0, 0"),
    Change("a fork has no budget", "fork", "{ 'bt', 'bm', 'ob', 'dl', 'xs' }", "{ 'ob', 'dl', 'xs' }"),
    Change("a retried job has no deadline", "retry", "if facts[3] then", "if false then"),
    Change("a retry is the same life", "retry", "'dg', chain(birth_of(facts[2] or '') .. '~' .. A.salt, 'retry'), ", ""),
    Change("what a retry undoes comes after what stays", "_again", "      pair[2][H.order] = nth\n      rewrite(", "      rewrite("),
    Change("an outcome leaves the proof as it is", "_plan", "'dg', chain(facts[2] or '', came)", "'dg', facts[2] or ''"),
    Change("who answered does not matter to the proof", "_plan",
           "step .. ' ' .. (h[H.token] ~= '' and h[H.token] or int(at))", "step"),
    Change("new steps leave the proof as it is", "_plan", "'n', int(first + i), 'dg', proof, unpack(fields)",
           "'n', int(first + i), unpack(fields)"),
    Change("an admitted job's answers are not seen", "_members", "count == 0 or number(facts[6]) > 0", "count == 0"),
    Change("a mark stays", "_mend", "  if #jobs > 0 then redis.call('ZREM', P .. 'dirty'", "  if #jobs > 1 then redis.call('ZREM', P .. 'dirty'"),
    Change("what others can serve is forgotten", "_limits", "  redis.call('ZADD', key('wanted', h[H.lane]), 0, need)\n", ""),
    Change("a worker gets what it cannot serve", "claim", "if not serves(s.job, h, s.facts) then", "if not serves(h, s.facts) and h[H.attempt] > 0 then"),
    Change("what waits for those who can is behind", "claim", "while not top and looked < MOST_LOOKED and bring() do", "while false do"),
    Change("a claim that is asked for again is another", "claim", "if A.again > 0 then", "if A.again > 1 then"),
    Change("a call that is regained is counted twice", "_limits", "if fresh == 1 then add", "if true then add"),
    Change("what is ahead of its counter stays there", "_order", "elseif amount < 0 then", "elseif false then"),
    Change("models that hold are forgotten when rules change again", "_gather", "      if #sets == some then redis.call('ZREM', holds, model) end",
           "      redis.call('ZREM', holds, model)"),
    Change("a step is let in beyond the room", "_limits", "      if not yes or free <= redis.call('ZCARD', in_set(lane, name)) then", "      if not yes then"),
    Change("what was let in and is claimed counts on", "claim", "    s.limited[name] = true\n    redis.call('ZREM', in_set(h[H.lane], name), s.top)", "    s.limited[name] = true"),
    Change("what was let in and goes away counts on", "_order", "  not_in(job, m, h)\n  if redis", "  if redis"),
    Change("what is let in does not count", "_order", "  for _, name in ipairs(limits) do\n    redis.call('ZADD', in_set", "  for _, name in ipairs({}) do\n    redis.call('ZADD', in_set"),
    Change("the next is not let in when one goes to others", "claim", "      let_in(name)\n    end -- its room", "    end -- its room"),
    Change("what leaves a tenant's set is still counted", "_order", "  if tenant then count_on(shelf, name, -1) end\n", ""),
    Change("other rules leave what waits counted", "_gather", "    if tenant then count_on('ready', lane, -#names) end\n", ""),
    Change("what is gathered waits on the lane too", "_gather", "    redis.call('ZREM', set, unpack(names))\n", ""),
    Change("other rules hold before all is gathered", "_gather", "    if not empty(lane) then return true end\n", "    empty(lane)\n"),
    Change("what is gathered is ranked before all is", "strays", "if rules_to_come(A.lane) or r.look then", "if r.look then"),
    Change("what is held is looked at for a while", "_gather", "    if name then stack[#stack + 1] = { top[1], name, cursor } end\n", ""),
    Change("a tenant whose steps are gathered still waits", "_gather", "  if tenant then redis.call('ZREM', key('readyby', lane), tenant) end\n", "  left = 0\n"),
    Change("a held step that leaves lets nobody in", "_plan", "  elseif by then\n    later(by)\n  end", "  end"),
    Change("a held step that is overtaken lets nobody in", "_limits", "    if string.sub(by, 1, 1) ~= '?' then let_in(by) end\n", ""),
    Change("a look at the held that is due is put off", "_limits", "redis.call('ZADD', P .. 'timers', 'LT', int(at),", "redis.call('ZADD', P .. 'timers', int(at),"),
    Change("who reports no usage has taken nothing", "commit", "if unknown then\n  prompt, output = estimated(h)\nend\n", ""),
    Change("an answer that comes too late has cost nothing", "commit", "  if calls > 0 and same then\n", "  if false then\n"),
    Change("an answer that comes too late costs as often as it is sent", "commit", "    redis.call('HSET', k, sent, 1, unpack(used))", "    redis.call('HSET', k, unpack(used))"),
    Change("a tenth of a millionth is nothing", "_lib", "string.format('%.6f', n)", "string.format('%.6f', math.floor(n))"),
    Change("a step goes elsewhere though its model is not on hold", "_limits", "  return left > 0 and (m[2]", "  return left > -1e15 and (m[2]"),
    Change("a step that goes elsewhere is called for on its old lane", "_limits", "  if place(job, step, h, kept and not moved) then ticket(lane, job, step) end", "  place(job, step, h, kept and not moved)"),
    Change("a step goes to a fallback that is on hold itself", "_limits", " and number(redis.call('HGET', key('model', model), 'hold')) <= now then", " then"),
    Change("what is held goes elsewhere and stays held", "_limits", "        take_from('held', model, m, tenant)\n        some", "        some"),
    Change("a retry begins where the step went to", "_again", "    h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$')\n", ""),
    Change("a fork begins where the step went to", "fork", "    h[H.lane], h[H.label] = string.match(first, '^(.*)|(.*)$')\n", ""),
    Change("what counts is not swept", "_limits", "      redis.call('ZREM', key('inflight', model), lease)\n", ""),
    Change("other rules leave the lane by age as it is", "_gather", "    redis.call('ZREM', key('readyold', own), unpack(names))\n", ""),
    Change("a new job is not open", "_new", "  redis.call('ZADD', P .. 'open', int(at), j.id)\n", ""),
)  # fmt: skip
"""Each would be a fault of the journal's own."""

WHEN_BROKEN: tuple[Change, ...] = (
    Change("mending puts no step on its lane", "_mend", "if place(job, step, h, true) then ticket(h[H.lane], job, step) end", "ticket(h[H.lane], job, step)"),
    Change("mending leaves steps where a broken verb put them", "_mend", "          off_shelves(job, step, h)\n          if not timed", "          if not timed"),
    Change("a new job that is half written stays", "_new", "if not stay then\n        throw_away(job)", "if not stay then\n        local _ = job"),
    Change("a plan that nobody submits further stays", "plans", "if f[3] or abandoned(f[2]) then", "if false then"),
    Change("what a plan was at is forgotten", "_members", "local what, i, job = string.match(f[2] or '',", "local what, i, job = string.match('',"),
    Change("a job is not marked before it is changed", "_lib", "    redis.call('ZADD', P .. 'dirty', int(clock()), job)\n    wrote = true\n", ""),
    Change("an end that was not told stays so", "_mend", "if redis.call('PTTL', k) < 0 or", "if false and"),
    Change("what was leased and is not is left", "_mend", "          h[H.state] = 'ready'\n          s = 'ready'\n", "          s = 'ready'\n"),
    Change("a broken commit's call is not spent", "commit", "  if now and now[H.order] > 0 then pay() end\n", ""),
    Change("outcomes keep orders with gaps", "_mend", "if #outcomes ~= number(f[3]) then redis.call('HSET', k, 'v', #outcomes) end", ""),
)  # fmt: skip
"""… of what puts right what a broken verb has left."""

WHEN_WIDE: tuple[Change, ...] = (
    Change("what is left of a wide job is forgotten", "_sweep", "    local new = redis.call('ZADD', P .. 'sweeps', int(clock() + (by_caller and PATIENCE or 0)), job) == 1\n", "    local new = false\n"),
    Change("a slice is passed over", "sweep", "local next_, moved = follow_page(job, tonumber(at), count, f[2])", "local next_, moved = follow_page(job, tonumber(at) + 1, count, f[2])"),
    Change("a job that has ended half way expires", "_plan", "  if not left then\n    redis.call('PEXPIRE', k, A.retention_ms)", "  if true then\n    redis.call('PEXPIRE', k, A.retention_ms)"),
    Change("a step that has not followed its job counts on as let in", "claim", "      redis.call('ZREM', in_set(s.h[H.lane], name), s.top)\n      later(name)\n    end\n    follow", "    end\n    follow"),
    Change("a claim that meets a step of a paused job leaves it so", "claim", "    follow(s.job, s.step, s.h, s.facts[1])\n", ""),
    Change("outcomes that a retry leaves out are not counted", "_again", "'og', int(left_out + #which), ", ""),
    Change("a wide fork forgets where it was", "fork", "int(count), int(last) }, '|'))", "0, 0 }, '|'))"),
    Change("a signal passes over those who wait", "signal", "local at = life == A.life and A.at or 0", "local at = life == A.life and A.at or 1"),
)  # fmt: skip
"""… of what goes on with the steps of wide jobs.

Not here, since no check of the driver can tell: a retry that does not wait for the end before it, or a priority that reaches
only the first steps (``tests/redis/test_wide_jobs*.py`` can); a timer, or a late answer, that meets a step which has not
followed its job and does not let it: the next slice comes to the same."""


WHEN_PARKED: tuple[Change, ...] = (
    Change("what is parked goes on with whatever code there is", "unpark", "elseif not somebody_has(need) then", "elseif need == '-' then"),
    Change("a job that goes on is still among the parked", "_plan", "  redis.call('ZREM', P .. 'parked', f[1] .. '|' .. job)\n", ""),
    Change("a job is parked though a worker has its code", "_plan", "  if somebody_has(need) then return need_turn(job) end", "  if false then return need_turn(job) end"),
    Change("what keeps a plan waiting is not noted", "_plan", "  if plan then redis.call('ZADD', P .. 'parkedin', 0, plan .. '|' .. job) end\n", ""),
    Change("nobody is told of a parked job", "_plan", "  parked.tell(job, f[2])\nend", "end"),
    Change("what is paused besides goes on by itself", "pause", "if state == 'paused' then stay_parked(A.job) end\n", ""),
    Change("a step that is being called is forgotten", "rewind", "for first = A.step, count - 1, LOOKED_AT_ONCE do", "for first = count, count - 1, LOOKED_AT_ONCE do"),
    Change("what was forgotten counts on as an outcome", "rewind", "'v', int(number(f[3]) - forgotten)", "'v', int(number(f[3]))"),
    Change("a program goes on from what was forgotten", "rewind", "'zn', int(era), 'dg', proof", "'zn', int(era)"),
    Change("a sleep that was forgotten rings", "rewind", "  set_aside(A.job, n, h)\n", "  if h[H.state] ~= 'timed' then set_aside(A.job, n, h) end\n"),
    Change("an answer of a forgotten step has cost nothing", "commit", "if forgotten then return too_late('gone') end", "if forgotten then return { 'gone', 0, {}, '' } end"),
    Change("a fork has any code", "fork", "  if facts[12] then redis.call('HSET', to, 'ch', facts[12],", "  if false then redis.call('HSET', to, 'ch', facts[12],"),
)  # fmt: skip
"""… of what stops where its agent's code has changed."""


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
    first = FOUND_BY.get(bug.name, SCENES_FROM)
    look = _broken if bug in WHEN_BROKEN else _driven
    for seed in (first, *(seed for seed in (*SEEDS[SCENES_FROM:], *SEEDS[:SCENES_FROM]) if seed != first)):
        fleet = Fleet(url, f"{name}-{seed}", [*(WIDE if bug in WHEN_WIDE else MENDS), bug])
        driver = Driver(
            fleet,
            random.Random(seed),
            most_open=5 if bug in WHEN_BROKEN else 12,
            scenes=seed >= SCENES_FROM,
            deploys=bug in WHEN_PARKED,
        )
        try:
            found = look(url, driver, bug)
        except (Broken, JournalError) as exc:  # (the latter where the drain meets it)
            found = str(exc).partition("\n")[0]
        finally:
            moves += len(driver.said)
            fleet.close()
        if found:
            return Find(seed, moves, found)
    return None


def _driven(_: str, driver: Driver, __: Change) -> str:
    for _nth in range(MOVES):
        driver.move()
    driver.drain()
    return ""


def _broken(url: str, driver: Driver, bug: Change) -> str:
    injector = Injector(url, f"{driver.fleet.config.name}copy", [*MENDS, bug])
    try:
        for case in inject(driver, injector, moves=MOVES // 3, cases=2):
            if case.broken:
                return case.broken[0]
    finally:
        injector.close()
    return ""


FOUND_BY: dict[str, int] = {
    "what is parked goes on with whatever code there is": 33,
    "a job that goes on is still among the parked": 24,
    "a job is parked though a worker has its code": 24,
    "what keeps a plan waiting is not noted": 24,
    "nobody is told of a parked job": 24,
    "what is paused besides goes on by itself": 25,
    "a step that is being called is forgotten": 27,
    "what was forgotten counts on as an outcome": 24,
    "a program goes on from what was forgotten": 24,
    "a sleep that was forgotten rings": 34,
    "an answer of a forgotten step has cost nothing": 28,
    "a fork has any code": 39,
    "what is left of a wide job is forgotten": 24,
    "a slice is passed over": 24,
    "a job that has ended half way expires": 24,
    "a step that has not followed its job counts on as let in": 0,
    "a claim that meets a step of a paused job leaves it so": 28,
    "outcomes that a retry leaves out are not counted": 33,
    "a wide fork forgets where it was": 5,
    "a signal passes over those who wait": 24,
    "a step is put on no lane": 24,
    "what is taken off a shelf stays on it by age": 1,
    "a tenant without steps is still among those who wait": 0,
    "a tenant that begins to wait is not noted": 24,
    "an outdated rank goes on the lane": 0,
    "what was charged is not settled": 0,
    "a turn is made ready while one runs": 24,
    "a turn that is due in a pause is forgotten": 28,
    "the place in flight of a tenant's call is not given back": 24,
    "the place in flight of a call is not given back": 0,
    "what was held is let in without leaving the held": 0,
    "an estimate stays beside what the call took": 0,
    "the window's sum is not put right": 0,
    "a hold does not hold": 24,
    "a limit of calls is one too high": 39,
    "requests a minute are one too many": 0,
    "who holds steps of a lane is not noted": 0,
    "a tenant's tokens are spent as money": 1,
    "an outcome leaves the lease": 0,
    "a sleep has no timer": 0,
    "a signal that came early is lost": 24,
    "a deadline outlives its job": 1,
    "an ended job stays open": 0,
    "a plan hears twice of a member": 30,
    "a fixed plan admits two at once": 24,
    "a plan that is cut short is left so": 24,
    "what a plan has left to do is forgotten": 0,
    "members that are dropped are not counted": 25,
    "a group of a plan that has failed runs on": 29,
    "a pause leaves steps on the lane": 0,
    "a job's end leaves its turn on the lane": 0,
    "a step is leased without a lease": 0,
    "a budget is looked at too late": 0,
    "no turn is due after a commit": 29,
    "the fence is open": 24,
    "no late answer is taken": 31,
    "a commit's decision need not know where the job stands": 8,
    "prompt tokens are counted as output": 0,
    "a late answer leaves its step on the lane": 1,
    "a stale decision is taken": 2,
    "a decision is taken before a retry is judged": 35,
    "another's turn is over": 24,
    "a turn that is over is still leased": 0,
    "a step given back in a pause is ready": 39,
    "who gave a step back may renew it": 1,
    "a signal that is sent again is the next one": 0,
    "who gives a step back need not hold it": 38,
    "a resumed step waits nowhere": 1,
    "a lost worker keeps its place": 24,
    "a lease that ended is forgotten": 0,
    "a sleep is over and no turn is called for": 1,
    "a priority changes the rank and not the place": 7,
    "a rank that was made anew leaves the stray": 0,
    "a retried job stays among the ended": 0,
    "a fork begins with somebody's claim": 12,
    "a retried job has no deadline": 24,
    "an outcome leaves the proof as it is": 0,
    "who answered does not matter to the proof": 64,
    "new steps leave the proof as it is": 0,
    "a mark stays": 0,
    "what others can serve is forgotten": 0,
    "a worker gets what it cannot serve": 0,
    "what waits for those who can is behind": 24,
    "a claim that is asked for again is another": 0,
    "what is ahead of its counter stays there": 33,
    "what counts is not swept": 20,
    "other rules leave the lane by age as it is": 37,
    "a new job is not open": 0,
    "steps that are given back are not counted": 24,
    "signals are kept without end": 31,
    "a lease that is gone is taken up from another job": 24,
    "a lease is taken up whoever has had the step since": 27,
    "what a retry undoes comes after what stays": 27,
    "an admitted job's answers are not seen": 25,
    "models that hold are forgotten when rules change again": 24,
    "what is gathered waits on the lane too": 24,
    "other rules hold before all is gathered": 12,
    "what is gathered is ranked before all is": 21,
    "what is held is looked at for a while": 32,
    "a tenant whose steps are gathered still waits": 10,
    "who reports no usage has taken nothing": 24,
    "an answer that comes too late has cost nothing": 37,
    "an answer that comes too late costs as often as it is sent": 37,
    "a tenth of a millionth is nothing": 24,
    "what is held goes elsewhere and stays held": 35,
    "mending puts no step on its lane": 0,
    "mending leaves steps where a broken verb put them": 24,
    "a job is not marked before it is changed": 0,
    "a broken commit's call is not spent": 1,
    "what comes since the rules changed is never put where it belongs": 26,
    "what was let in and is claimed counts on": 24,
    "what was let in and goes away counts on": 24,
    "what is let in does not count": 30,
    "the next is not let in when one goes to others": 3,
    "what leaves a tenant's set is still counted": 24,
    "other rules leave what waits counted": 12,
    "a step goes elsewhere though its model is not on hold": 14,
}
"""The seed that found each bug when they were last looked for (``python -m tests.driver --planted``). What is not here
no seed has found yet: tests/redis/test_proven_at_the_write.py and others hold that by hand."""
