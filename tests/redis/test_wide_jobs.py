"""A job of many steps: no script goes over all of them, and all follow their job, whoever dies meanwhile."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from aios_dist.broker.app import Tickets
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import JournalError
from aios_dist.journal import Ticket
from aios_dist.journal.heads import unpack_head
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome
from aios_dist.model.specs import Budget
from aios_dist.policies import Rank
from aios_dist.worker.reconciler import Reconciler
from tests.driver.patched import text_of
from tests.redis.conftest import Hand, Told, decides, starts

AT_ONCE = int(text_of("_lib").partition("local STEPS_AT_ONCE = ")[2].split()[0])
MANY, MORE = 2 * AT_ONCE + 30, 2100
LOOKS = 1000
"""Steps that a script only looks at; each takes a command at the most."""
PRIORITY = Rank(per_priority=6e7)
Verb = Callable[[Hand, str], Awaitable[Any]]


class Watched(Told):
    """A journal that knows what its scripts have done, and whose caller may die behind a verb's first.

    Attributes:
        patience: slices that who has called goes on for; None: all.
        scripts: of each script its verb, and how many commands it ran.
    """

    patience: int | None = None

    def __init__(self, config: FleetConfig) -> None:
        super().__init__(config)
        self.scripts: list[tuple[str, int]] = []

    async def _run(self, verb: str, *then: tuple[Any, ...], **fields: Any) -> Any:
        before = await self._commands()
        answer = await super()._run(verb, *then, **fields)
        self.scripts.append((verb, await self._commands() - before))
        return answer

    async def _commands(self) -> int:
        stats = await self.connection.command("INFO", "commandstats")
        return sum(map(int, re.findall(rb"calls=(\d+)", stats)))

    async def _follow(self, job: str, more: int) -> tuple[list[Ticket], int]:
        if self.patience is None:
            return await super()._follow(job, more)
        for _ in range(self.patience):
            more = more and (await self.sweep(job))[2]
        return [], 0


@pytest_asyncio.fixture
async def journal(config: FleetConfig) -> Any:
    made = Watched(config)
    yield made
    await made.close()


@pytest.fixture
def watched(hand: Hand) -> Watched:
    assert isinstance(hand.journal, Watched)
    return hand.journal


async def wide(hand: Hand, id: str = "j", count: int = MANY, **more: Any) -> None:
    """A job of so many steps; three of them are answered, one by a failure, one is in flight."""
    more = {"rank": PRIORITY, "policy": "", **more}
    await hand.submit(starts(id, *(f"{id} {n}" for n in range(count)), **more))


async def begun(hand: Hand, id: str = "j", **more: Any) -> Any:
    """… three are answered, one of these is a failure, one is in flight."""
    await wide(hand, id, **more)
    for ok in (True, False, True):
        await hand.commit(await hand.claim(), ok=ok)
    return await hand.claim()


async def states(hand: Hand, id: str = "j") -> dict[str, int]:
    """How many steps stand where, of those that can be read."""
    found: dict[str, int] = {}
    for field, value in (await hand.hash(hand.keys.job(id))).items():
        if field[0] == "h" and field[1:].isdigit() and value != b"\xc1":
            state = unpack_head(value).state
            found[state] = found.get(state, 0) + 1
    return found


async def finish(hand: Hand) -> None:
    """The reconciler does what others have left."""
    more, found = True, []
    while more:
        name, _, more, _ = await hand.journal.sweep()
        found.append(name)
    for job in await hand.members(hand.keys.prefix + "sweeps"):  # who has called had a moment
        while (await hand.journal.sweep(job))[2]:
            pass


async def walk(hand: Hand, page: int = 200) -> list[str]:
    """The slow walk from its beginning to its end: what was wrong."""
    cursor, found = "0", []
    while True:
        walked = await hand.journal.walk(cursor, page)
        cursor, found = walked.cursor, [*found, *(what for _, what in walked.found)]
        if cursor == "0":
            return found


# Each verb, and what it is to come to ---------------------------------------------------------------


async def cancel(hand: Hand, id: str) -> None:
    assert (await hand.journal.cancel(id))[0] == "cancelled"


async def pause(hand: Hand, id: str) -> None:
    assert await hand.journal.pause(id) == "paused"


async def resume(hand: Hand, id: str) -> None:
    assert (await hand.journal.resume(id))[0] == "running"


async def retry(hand: Hand, id: str) -> None:
    basis = (await hand.journal.load(id)).basis
    assert (await hand.journal.retry(id, basis=basis, undone=[1]))[0] == "running"


async def retry_any(hand: Hand, id: str) -> None:
    """A worker is to say what is undone."""
    assert (await hand.journal.retry(id))[0] == "running"


async def rerank(hand: Hand, id: str) -> None:
    assert (await hand.journal.rerank(id, 5))[0] in ("running", "paused")


async def fork(hand: Hand, id: str) -> None:
    steps = (await hand.journal.load(id)).view.steps
    assert (await hand.journal.fork(id, f"{id}-fork", steps))[0] == "new"


async def signal(hand: Hand, id: str) -> None:
    assert (await hand.journal.signal(id, "go", Outcome(value=1)))[0] == "kept"


async def deadline(hand: Hand, id: str) -> None:
    await hand.redis("ZADD", hand.keys.deadlines, 1, id)
    await hand.reap()
    await finish(hand)


async def mend(hand: Hand, id: str) -> None:
    await hand.redis("ZADD", hand.keys.dirty, 1, id)
    await walk(hand)
    await finish(hand)


async def look_over(hand: Hand, id: str) -> None:
    assert await walk(hand) == []


async def fail_fast(hand: Hand, id: str) -> None:
    (lease,) = await hand.members(hand.keys.leases)
    job = await hand.journal.load(id)
    end = decides(job.view.outcomes, job.view.steps, ends=JobState.FAILED)
    assert (await hand.journal.advance(id, end)).status == "advanced"
    assert lease
    await finish(hand)


VERBS: dict[str, tuple[Verb | None, Verb, dict[str, int]]] = {
    "cancel": (None, cancel, {"dropped": MANY - 4}),
    "pause": (None, pause, {"parked": MANY - 4}),
    "cancel paused": (pause, cancel, {"dropped": MANY - 4}),
    "resume": (pause, resume, {"ready": MANY - 4}),
    "retry": (cancel, retry, {"ready": MANY - 3}),
    "rerank": (None, rerank, {"ready": MANY - 4}),
    "fork": (None, fork, {"ready": MANY - 4}),
    "signal": (None, signal, {"ready": MORE - 4}),
    "deadline": (None, deadline, {"dropped": MANY - 4}),
    "fail-fast": (None, fail_fast, {"dropped": MANY - 4}),
    "mend": (None, mend, {"ready": MANY - 4}),
    "walk": (None, look_over, {"ready": MORE - 4}),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_no_script_of_a_verb_is_longer_than_over_a_job_of_one_slice(
    hand: Hand, watched: Watched, verb: str
) -> None:
    before, do, wanted = VERBS[verb]
    most = {}
    many = MORE if verb in ("signal", "walk") else MANY
    for id, count in (("few", AT_ONCE), ("j", many)):
        call = await begun(hand, id, count=count)
        if before is not None:
            await before(hand, id)
        watched.scripts.clear()
        await do(hand, id)
        most[id] = max(commands for _, commands in watched.scripts)
        if verb not in ("deadline", "fail-fast", "mend", "walk"):
            assert len(watched.scripts) == 1 or id == "j"
        if id == "few":
            await hand.journal.cancel("few")
            await hand.journal.cancel("few-fork")
            await hand.lose(call)
    assert most["j"] <= max(1.3 * most["few"], LOOKS) + 100
    assert len(watched.scripts) >= many // LOOKS + 1
    got = await states(hand)
    assert {state: count for state, count in got.items() if state in wanted} == wanted
    assert sum(got.values()) == many


# Who has called dies behind the first slice ------------------------------------------------------------

PAIRS: dict[str, tuple[tuple[Verb, ...], dict[str, int]]] = {
    "cancel": ((cancel,), {"dropped": MANY - 4}),
    "pause": ((pause,), {"parked": MANY - 4}),
    "pause, resume": ((pause, resume), {"ready": MANY - 4}),
    "pause, resume, pause": ((pause, resume, pause), {"parked": MANY - 4}),
    "pause, cancel": ((pause, cancel), {"dropped": MANY - 4}),
    "pause, resume, cancel": ((pause, resume, cancel), {"dropped": MANY - 4}),
    "cancel, retry": ((cancel, retry), {"ready": MANY - 3}),
    "cancel, retry, pause": ((cancel, retry, pause), {"parked": MANY - 3}),
    "cancel, retry, pause, resume": ((cancel, retry, pause, resume), {"ready": MANY - 3}),
    "cancel, retry, cancel": ((cancel, retry, cancel), {"dropped": MANY - 3}),
    "cancel, retry, cancel, retry": ((cancel, retry, cancel, retry), {"ready": MANY - 3}),
    "rerank": ((rerank,), {"ready": MANY - 4}),
    "rerank, pause": ((rerank, pause), {"parked": MANY - 4}),
    "pause, rerank": ((pause, rerank), {"parked": MANY - 4}),
    "rerank, cancel, retry": ((rerank, cancel, retry), {"ready": MANY - 3}),
    "fork": ((fork,), {"ready": MANY - 4}),
    "mend": ((mend,), {"ready": MANY - 4}),
}


@pytest.mark.parametrize(("held", "left"), [(False, 0), (True, 1)], ids=["none of it", "a slice of it, held"])
@pytest.mark.parametrize("verbs", PAIRS)
async def test_what_a_caller_that_died_has_left_is_finished_and_verbs_in_between_hold(
    hand: Hand, watched: Watched, verbs: str, held: bool, left: int
) -> None:
    if held:
        await hand.limit(flight=2)
    if "rerank" in verbs:
        await hand.journal.set_lane("llm", policy="priority")
    await begun(hand, policy="priority" if "rerank" in verbs else "")
    watched.patience = left
    done, wanted = PAIRS[verbs]
    for verb in done:
        await verb(hand, "j")
    if verbs != "mend":
        assert await states(hand) != wanted
    await finish(hand)
    got = await states(hand)
    assert {state: count for state, count in got.items() if state in wanted} == wanted
    if "rerank" in verbs:
        for facts in (await hand.jobs()).values():
            heads = [unpack_head(v) for f, v in facts.items() if f[0] == "h" and f[1:].isdigit()]
            assert {h.rank - h.base - h.ready for h in heads if h.state in ("ready", "parked")} == {-5 * 6e7}
    ticking = await hand.redis("PTTL", hand.keys.job("j"))
    assert (ticking > 0) == (await hand.state("j") == "cancelled")


@pytest.mark.parametrize("stop", [cancel, pause])
@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
async def test_a_claim_takes_nothing_of_a_job_whose_steps_have_still_to_follow_it(
    hand: Hand, watched: Watched, stop: Verb, held: bool
) -> None:
    if held:
        await hand.limit(flight=2)
    await wide(hand)
    await hand.submit(starts("behind", "it"))
    watched.patience = 0
    await stop(hand, "j")
    claims = [claim for _ in range(2 * MANY // 64) if (claim := await hand.journal.claim("llm", "w"))]
    assert [claim.job for claim in claims] == ["behind"]
    assert not (await states(hand)).get("leased")
    await finish(hand)


@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
@pytest.mark.parametrize("count", [AT_ONCE, MANY])
@pytest.mark.parametrize("between", [(), (rerank,)], ids=["", "rerank"])
async def test_what_a_worker_of_the_release_before_took_off_its_line_is_put_back(
    hand: Hand, watched: Watched, between: tuple[Verb, ...], count: int, held: bool
) -> None:
    """It knows of no slices: what it meets of a job that was stopped it takes off, and writes nothing."""
    if held:
        await hand.limit(flight=2)
    await wide(hand, count=count)
    watched.patience = 0
    await pause(hand, "j")
    line = hand.keys.ready("llm")
    for name in (await hand.redis("ZRANGE", line, 0, 63)) or []:
        await hand.redis("ZREM", line, name)
    for verb in (*between, resume):
        await verb(hand, "j")
    await finish(hand)
    assert await states(hand) == {"ready": count}


@pytest.mark.parametrize("retention", [1, 604800])
async def test_a_job_begins_to_expire_when_all_its_steps_have_followed_its_end(
    hand: Hand, watched: Watched, retention: int
) -> None:
    watched._retention_ms = 1000 * retention
    watched.patience = 0
    await wide(hand)
    await cancel(hand, "j")
    left = [await hand.redis("PTTL", key("j")) for key in (hand.keys.job, hand.keys.events)]
    assert left == [-1, -1]
    assert await hand.state("j") == "cancelled"
    await finish(hand)
    left = [await hand.redis("PTTL", key("j")) for key in (hand.keys.job, hand.keys.events)]
    assert all(0 <= ms <= 1000 * retention for ms in left)
    assert await hand.members(hand.keys.ready("llm")) == set()


async def test_nor_one_without_an_open_step_that_ends_again_before_its_steps_have_followed_a_retry(
    hand: Hand, watched: Watched
) -> None:
    many = 5 * AT_ONCE + 5  # (to look at a step is a fifth of what it is to change one)
    await wide(hand, count=many)
    for _ in range(many):
        await hand.commit(await hand.claim())
    await cancel(hand, "j")
    watched.patience = 0
    await retry_any(hand, "j")
    await cancel(hand, "j")
    assert await hand.redis("PTTL", hand.keys.job("j")) == -1
    await finish(hand)
    assert await hand.redis("PTTL", hand.keys.job("j")) > 0


async def test_an_end_is_told_at_once_and_once(hand: Hand, watched: Watched) -> None:
    watched.patience = 0
    await hand.plan("p", ("fixed", "continue", "j", "next"), [starts("j", *map(str, range(MANY)))])
    await cancel(hand, "j")
    assert await hand.states("j", "next") == ["cancelled", "running"]
    await finish(hand)
    ends = await hand.redis("XRANGE", hand.keys.ends, "-", "+")
    assert len(ends) == 1
    await hand.journal.cancel("next")


async def test_the_reconciler_goes_on_with_what_nobody_has_called_for(
    hand: Hand, watched: Watched, config: FleetConfig
) -> None:
    reconciler = Reconciler(Config(fleet=config), hand.journal, Tickets(Config(fleet=config)), "w1")
    await reconciler._office.ask("take")
    call = await begun(hand, budget=Budget(tokens=100, on_budget="fail"))
    await hand.commit(call, usage=Usage(100, 100, 1))
    assert await hand.journal.claim("llm", "w") is None
    assert await hand.state("j") == "failed"
    assert (await states(hand))["ready"] > AT_ONCE
    await reconciler.once()
    assert await states(hand) == {"done": 3, "failed": 1, "dropped": MANY - 4}
    assert not reconciler.broken


async def test_a_small_job_that_a_claim_ends_with_wide_ones_is_ended_whole(hand: Hand) -> None:
    spent = {"budget": Budget(tokens=0)}
    for id, count in (("a", MANY), ("b", MANY), ("c", AT_ONCE)):
        await wide(hand, id, count=count, rank=Rank(), **spent)
    for _ in range(2 * MANY // AT_ONCE + 4):
        assert await hand.journal.claim("llm", "w") is None
    assert await states(hand, "c") == {"parked": AT_ONCE}
    await finish(hand)
    assert await hand.states("a", "b", "c") == ["paused"] * 3


async def test_an_answer_to_a_call_in_flight_is_kept_while_the_steps_follow(
    hand: Hand, watched: Watched
) -> None:
    watched.patience = 0
    first = await begun(hand)
    late = await hand.claim()
    await hand.lose(late)
    await pause(hand, "j")
    assert (await hand.commit(first)).status == "paused"
    assert (await hand.commit(late)).status == "paused"
    await resume(hand, "j")
    assert (await hand.commit(first)).status == "mine"
    await finish(hand)
    got = await states(hand)
    assert got == {"done": 4, "failed": 1, "ready": MANY - 5}


async def test_a_call_whose_job_is_paused_keeps_its_lease_while_the_steps_follow(
    hand: Hand, watched: Watched
) -> None:
    watched.patience = 0
    await wide(hand)
    calls = [await hand.claim() for _ in range(AT_ONCE + 2)]
    last = calls[-1]
    await hand.lose(last)
    await pause(hand, "j")
    assert await hand.renew(last) == []
    await finish(hand)
    assert await states(hand) == {"leased": AT_ONCE + 2, "parked": MANY - AT_ONCE - 2}
    assert (await hand.commit(last)).status == "paused"


async def test_a_sleep_of_a_job_that_has_ended_is_over_without_an_outcome(
    hand: Hand, watched: Watched
) -> None:
    watched.patience = 0
    await hand.submit(starts("j", *map(str, range(MANY)), "sleep:60", "sleep:60"))
    got = await hand.claim()
    await hand.fail(got, after=30)
    await cancel(hand, "j")
    await hand.ring()
    await hand.reap()
    assert (await hand.journal.load("j")).view.outcomes == 0
    await finish(hand)
    assert await states(hand) == {"dropped": MANY + 2}


async def test_a_signal_finds_who_waits_for_it_behind_a_thousand_steps_and_none_that_is_over(
    hand: Hand, watched: Watched
) -> None:
    await hand.submit(starts("j", *map(str, range(MORE)), "signal:go", "signal:go"))
    assert (await hand.journal.signal("j", "go", Outcome(value=1), "one"))[0] == "delivered"
    assert (await hand.journal.signal("j", "go", Outcome(value=1), "one"))[0] == "delivered"
    assert (await states(hand))["waiting"] == 1
    watched.patience = 0
    await cancel(hand, "j")
    await retry_any(hand, "j")
    assert (await hand.journal.signal("j", "go", Outcome(value=2), "two"))[0] == "delivered"
    assert (await hand.journal.signal("j", "go", Outcome(value=2), "three"))[0] == "kept"
    await finish(hand)


async def test_retried_steps_of_a_wide_job_are_asked_for_anew_and_answers_keep_their_order(
    hand: Hand,
) -> None:
    call = await begun(hand)
    before = [n for n, _ in (await hand.journal.load("j")).outcomes()]
    await cancel(hand, "j")
    await retry(hand, "j")
    after = await hand.journal.load("j")
    assert [n for n, _ in after.outcomes()] == [n for n in before if n != 1]
    assert after.view.outcomes == 2
    assert (await hand.commit(call)).status == "turn"
    await hand.redis("ZADD", hand.keys.ready("llm"), 1, "j/1")  # (it goes first)
    await hand.commit(await hand.claim())
    assert [n for n, _ in (await hand.journal.load("j")).outcomes()] == [0, 2, 3, 1]


# Forks ---------------------------------------------------------------------------------------------------


class Dies(Exception):
    """Who forks dies."""


async def half_a_fork(hand: Hand, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices of one are there."""
    await begun(hand)
    run, slices = Watched._run, []

    async def dies(self: Watched, verb: str, *then: Any, **fields: Any) -> Any:
        if verb == "fork" and len(slices) == 2:
            raise Dies
        slices.append(verb)
        return await run(self, verb, *then, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "_run", dies)
        with pytest.raises(Dies):
            await watched.fork("j", "f", MANY)


async def test_a_fork_that_nobody_has_finished_is_seen_by_nobody_and_goes_on_when_it_is_asked_for_again(
    hand: Hand, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await half_a_fork(hand, watched, monkeypatch)
    assert await hand.journal.states(["f"]) == [None]
    assert (await hand.journal.cancel("f"))[0] == "unknown"
    assert (await hand.journal.fork("j", "f", 3))[0] == "conflict"
    assert (await hand.journal.submit([starts("f", "other", agent="b")])).status == "conflict"
    assert await walk(hand) == []
    await fork_to_the_end(hand)
    assert (await hand.journal.fork("j", "f", MANY))[0] == "new"
    assert [n for n, _ in (await hand.journal.load("f")).outcomes()] == [0, 1, 2]
    assert await states(hand, "f") == {"done": 2, "failed": 1, "ready": MANY - 3}
    source, copy = await hand.hash(hand.keys.job("j")), await hand.hash(hand.keys.job("f"))
    for kind in ("q", "o"):
        mine, theirs = ({f: v for f, v in facts.items() if f[0] == kind} for facts in (source, copy))
        mine.pop("og", None)
        theirs.pop("og", None)
        assert mine == theirs


async def fork_to_the_end(hand: Hand) -> None:
    assert (await hand.journal.fork("j", "f", MANY))[0] == "new"


async def test_a_fork_that_nobody_goes_on_with_is_thrown_away_after_a_minute(
    hand: Hand, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await half_a_fork(hand, watched, monkeypatch)
    half = (await hand.hash(hand.keys.job("f")))["half"].decode().split("|")
    await hand.redis(
        "HSET", hand.keys.job("f"), "half", "|".join([str(int(half[0]) - 61_000_000), *half[1:]])
    )
    assert await walk(hand) == ["half written"]
    assert await hand.hash(hand.keys.job("f")) == {}
    assert "f" not in await hand.members(hand.keys.open)
    assert (await hand.journal.submit([starts("f", "other", agent="b")])).status == "new"


# What is broken ------------------------------------------------------------------------------------------


async def test_the_slow_walk_puts_right_what_is_wrong_anywhere_in_a_wide_job(hand: Hand) -> None:
    await hand.submit(starts("j", *map(str, range(MORE))))
    for lost in (3, MORE // 2, MORE - 1):
        await hand.redis("ZREM", hand.keys.ready("llm"), f"j/{lost}")
    assert await walk(hand) == [f"step {lost}: ready on 0 sets" for lost in (3, MORE // 2, MORE - 1)]
    assert await walk(hand) == []


async def test_only_the_last_page_of_a_wide_job_says_that_nothing_moves_it(hand: Hand) -> None:
    await hand.submit(starts("j", *(f"signal:{n}" for n in range(MANY))), starts("k", "x"))
    for field in [f"h{n}" for n in range(MANY)]:
        head = unpack_head(await hand.redis("HGET", hand.keys.job("j"), field))
        head = msgspec.structs.replace(head, state="done")
        await hand.redis("HSET", hand.keys.job("j"), field, msgspec.msgpack.encode(head))
    assert await walk(hand) == ["nothing that moves it"]
    await hand.redis("UNLINK", hand.keys.job("j"))
    await hand.reap()
    await hand.redis("DEL", hand.keys.events("j"))
    assert await hand.journal.claim("turns", "w") is None


@pytest.mark.parametrize("verb", [cancel, pause, retry_any, fork])
async def test_a_wide_job_with_an_unreadable_step_is_set_aside_and_stops_no_other(
    hand: Hand, watched: Watched, verb: Verb
) -> None:
    watched.patience = 0
    await wide(hand)
    await hand.submit(starts("k", "x"))
    if verb is retry_any:
        await cancel(hand, "j")
        await finish(hand)
    await hand.redis("HSET", hand.keys.job("j"), f"h{MANY - 3}", b"\xc1")
    try:
        await verb(hand, "j")
    except JournalError:
        assert verb is fork
    for _ in range(20):
        await walk(hand)
        try:
            await finish(hand)
        except JournalError:
            continue
    assert await hand.members(hand.keys.dirty) == set()
    assert await hand.members(hand.keys.prefix + "sweeps") == set()
    if verb is not fork:
        assert await hand.state("j") in ("failed", "cancelled")
    assert [claim.job for claim in await hand.drain() if claim.job != "j"] == ["k"]
    for key in await hand.redis("KEYS", f"{hand.keys.prefix}*"):
        await hand.redis("DEL", key)  # (what cannot be read cannot be looked at)


async def test_a_wide_job_is_set_aside_in_slices_and_its_end_is_told_once(
    hand: Hand, watched: Watched
) -> None:
    await wide(hand, count=MORE)
    watched.patience = 0
    await hand.redis("HSET", hand.keys.job("j"), f"h{MANY - 3}", b"\xc1")
    await hand.redis("ZADD", hand.keys.dirty, 1, "j")
    watched.scripts.clear()
    for _ in range(3):
        await walk(hand)
        await finish(hand)
    assert max(commands for _, commands in watched.scripts) < 40 * AT_ONCE < 4 * MORE
    assert await hand.state("j") == "failed"
    assert await states(hand) == {"dropped": MORE - 1}
    assert await hand.members(hand.keys.ready("llm")) == {f"j/{MANY - 3}"}  # claims pass over it
    assert await hand.redis("XLEN", hand.keys.ends) == 1
    assert await hand.redis("PTTL", hand.keys.job("j")) > 0
    for key in await hand.redis("KEYS", f"{hand.keys.prefix}*"):
        await hand.redis("DEL", key)  # (what cannot be read cannot be looked at)


async def test_events_of_a_wide_job_have_one_number_for_ever(hand: Hand) -> None:
    await hand.submit(starts("j", *map(str, range(AT_ONCE - 10))))
    before = await hand.journal.events("j")
    steps = decides(0, AT_ONCE - 10, *map(str, range(20)))
    assert (await hand.journal.advance("j", steps)).status == "advanced"
    assert await hand.redis("EXISTS", hand.keys.events("j")) == 1
    after = await hand.journal.events("j")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 20


async def test_who_retries_a_job_whose_steps_cannot_follow_it_gets_an_answer(
    hand: Hand, watched: Watched
) -> None:
    watched.patience = 0
    await wide(hand)
    await cancel(hand, "j")
    await hand.redis("HSET", hand.keys.job("j"), f"h{MANY - 3}", b"\xc1")
    for _ in range(3):  # it is left to the reconciler, which is not there
        with pytest.raises(JournalError):
            await retry_any(hand, "j")
    await walk(hand)
    assert await hand.redis("HGET", hand.keys.prefix + "aside", "j")
    for key in await hand.redis("KEYS", f"{hand.keys.prefix}*"):
        await hand.redis("DEL", key)  # (what cannot be read cannot be looked at)
