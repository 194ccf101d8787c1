"""Plans that are too much for one write: nobody sees half of one, nor waits for one; none is left so."""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pytest
import pytest_asyncio

from aios_dist.errors import FleetUnavailable, UnknownName
from aios_dist.journal import Journal, NewJob, submitting
from aios_dist.model.jobs import JobState, Outcome
from tests.driver.patched import Change, verbs
from tests.redis.conftest import Hand, Told, plan_of, starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from aios_dist.model.plans import Shape

DONE, FAILED = JobState.DONE, JobState.FAILED
SMALL = {"MOST_STEPS": 6, "MOST_FIELDS": 3}
"""Three jobs of one step in a slice."""


@pytest.fixture(autouse=True)
def _small_slices() -> Any:
    with mock.patch.multiple(submitting, **SMALL):
        yield


def written(root: tuple[Any, ...], jobs: Sequence[NewJob] = (), id: str = "p") -> tuple[list[NewJob], Shape]:
    """A plan as a producer has it in hand."""
    layout, owners = plan_of(id, root)
    given = {job.id: job for job in jobs}
    return [msgspec.structs.replace(given.get(j) or starts(j, j), node=n) for j, n in owners.items()], layout


class Dying(Journal):
    """A producer that dies behind so many slices (of any kind)."""

    slices = 10**9
    sent = 0

    async def _run(self, verb: str, *then: Any, **fields: Any) -> Any:
        if verb in ("submit", "extend"):
            if self.sent == self.slices:
                raise FleetUnavailable("the producer has died")
            self.sent += 1
        return await super()._run(verb, *then, **fields)


@pytest_asyncio.fixture
async def dying(config: FleetConfig) -> AsyncIterator[Dying]:
    made = Dying(config)
    yield made
    await made.close()


FIXED = ("fixed", "stop", "a", "b", ("fifo", "continue", "c", "d"), "e", "f", "g", "h", "i")
MEMBERS = "abcdefghi"


async def left_half(dying: Dying, slices: int, root: tuple[Any, ...] = FIXED, **more: Any) -> None:
    dying.slices, dying.sent = slices, 0
    with pytest.raises(FleetUnavailable):
        await dying.submit(*written(root, **more))


async def extended_half(dying: Dying, slices: int, ids: Sequence[str], plan: str = "p") -> None:
    dying.slices, dying.sent = slices, 0
    with pytest.raises(FleetUnavailable):
        await dying.extend(plan, [starts(id, id) for id in ids])


async def a_minute_passes(hand: Hand, plan: str = "p") -> None:
    """For what is half-submitted; nobody has noticed yet."""
    for field, value in (await hand.hash(hand.keys.plan(plan))).items():
        if field == "half" or (field[0] == "x" and field[-1] != ">"):
            at, rest = value.decode().split("|", 1)
            await hand.redis("HSET", hand.keys.plan(plan), field, f"{int(at) - 61_000_000}|{rest}")
    for name in await hand.redis("ZRANGE", hand.keys.plans, 0, -1):
        await hand.redis("ZADD", hand.keys.plans, 1, name)


async def told(hand: Hand) -> list[tuple[str, str]]:
    """The ends of jobs and plans that were told, in their order."""
    return [(f[0].decode(), f[1].decode()) for _, f in await hand.redis("XRANGE", hand.keys.ends, "-", "+")]


async def plan_state(hand: Hand, id: str = "p") -> str:
    return (await hand.journal.plan(id)).state


# Half of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 2])
async def test_of_a_plan_that_is_being_submitted_nobody_sees_anything(
    hand: Hand, dying: Dying, slices: int
) -> None:
    await hand.submit(starts("other", "x"))
    await left_half(dying, slices)
    journal = hand.journal
    assert [view.id for view in await journal.list_jobs(limit=1)] == ["other"]
    assert await journal.views(list(MEMBERS)) == [None] * 9
    assert await journal.states(list(MEMBERS)) == [None] * 9
    for ask in (journal.state("a"), journal.load("a"), journal.plan("p")):
        with pytest.raises(UnknownName):
            await ask
    assert await journal.cancel("a") == ("unknown", [])
    assert await journal.pause("a") == "unknown"
    assert (await journal.resume("a"))[0] == "unknown"
    assert (await journal.signal("a", "go", Outcome()))[0] == "unknown"
    assert (await journal.retry("a"))[0] == "unknown"
    assert (await journal.fork("a", "copy", 0))[0] == "unknown"
    assert (await journal.rerank("a", 9))[0] == "unknown"
    assert (await journal.extend("p", [starts("z", "x")])).status == "unknown"
    assert [claim.job for claim in await hand.drain()] == ["other"]
    assert (await journal.walk()).found == []
    assert await hand.go_on() == []


async def test_a_plan_that_is_sent_again_goes_on_where_it_stood(hand: Hand, dying: Dying) -> None:
    await left_half(dying, 2)
    dying.slices, dying.sent = 10**9, 0
    done = await dying.submit(*written(FIXED))
    assert (done.status, [t.job for t in done.tickets]) == ("new", ["a"])
    assert dying.sent == 2  # to hear where it stands, and the one that was missing
    assert (await dying.submit(*written(FIXED))).status == "same"
    assert await hand.run() == list(MEMBERS)
    assert await plan_state(hand) == "done"


async def test_two_producers_of_the_same_plan_write_it_once(hand: Hand, dying: Dying) -> None:
    await left_half(dying, 2)
    assert (await hand.journal.submit(*written(FIXED))).status == "new"
    assert (await dying.__class__.submit(hand.journal, *written(FIXED))).status == "same"  # type: ignore[arg-type]
    assert await hand.run() == list(MEMBERS)


async def test_what_nobody_submits_further_for_a_minute_is_thrown_away(hand: Hand, dying: Dying) -> None:
    before = await hand.whole()
    await left_half(dying, 2)
    assert await hand.go_on() == []
    assert await hand.whole() != before  # its producer has time
    await a_minute_passes(hand)
    await hand.go_on()
    assert await hand.whole() == before
    assert (await hand.journal.submit(*written(FIXED))).status == "new"


async def test_a_producer_that_comes_back_while_it_is_thrown_away_begins_anew(
    hand: Hand, dying: Dying
) -> None:
    root = ("fifo", "continue", *(f"j{n:03}" for n in range(150)))
    await left_half(dying, 40, root)
    await a_minute_passes(hand)
    assert (await hand.journal.go_on())[2]  # a slice of it
    assert (await hand.journal.submit(*written(root))).status == "new"
    assert await hand.run(most=150) == [f"j{n:03}" for n in range(150)]


async def test_a_plan_that_is_half_there_keeps_its_ids_for_a_minute(hand: Hand, dying: Dying) -> None:
    await left_half(dying, 2)
    other = written(("fifo", "continue", "a", "z"))
    done = await hand.journal.submit(*other)
    assert (done.status, done.conflict) == ("conflict", "p")
    taken = await hand.journal.submit([starts("a", "x", agent="other")])
    assert (taken.status, taken.conflict) == ("conflict", "a")
    await a_minute_passes(hand)
    await hand.submit(starts("a", "x", agent="other"))
    await hand.go_on()
    assert await hand.journal.states(["a", "b"]) == [JobState.RUNNING, None]
    assert (await hand.journal.submit(*written(("fifo", "continue", "y", "z")))).status == "new"


@pytest.mark.parametrize("taken", ["a", "e", "i"])
async def test_a_conflict_in_any_slice_leaves_nothing(hand: Hand, taken: str) -> None:
    await hand.submit(starts(taken, "x", agent="other"))
    before = await hand.whole()
    done = await hand.journal.submit(*written(FIXED))
    assert (done.status, done.conflict) == ("conflict", taken)
    assert await hand.whole() == before


async def test_a_deadline_ends_no_member_that_is_not_there_yet(hand: Hand, dying: Dying) -> None:
    jobs = [starts("a", "x", deadline=60.0), starts("b", "x", deadline=60.0)]
    await left_half(dying, 2, jobs=jobs)
    for job in "ab":
        await hand.redis("ZADD", hand.keys.deadlines, 1, job)
    await hand.reap()
    dying.slices = 10**9
    assert (await dying.submit(*written(FIXED, jobs))).status == "new"
    assert await hand.states("a", "b") == ["running", "waiting"]
    await hand.redis("ZADD", hand.keys.deadlines, 1, "b")
    await hand.reap()
    assert await hand.states("a", "b") == ["running", "failed"]
    assert await hand.run() == ["a"]
    await hand.go_on()  # the rest is dropped
    assert await plan_state(hand) == "failed"


async def test_the_walk_brings_back_what_nobody_goes_on_with(hand: Hand, dying: Dying) -> None:
    await left_half(dying, 2)
    await hand.redis("UNLINK", hand.keys.plans)
    assert {what for _, what in (await hand.journal.walk()).found} == {"nobody goes on with its plan"}
    await a_minute_passes(hand)
    await hand.go_on()
    assert await hand.jobs() == {}


# Admitting --------------------------------------------------------------------------------------------


def many(count: int, mode: str = "fifo", on_failure: str = "continue") -> tuple[Any, ...]:
    return (mode, on_failure, *(f"j{n:03}" for n in range(count)))


async def test_the_first_members_of_a_big_plan_run_while_later_ones_are_admitted(hand: Hand) -> None:
    ran = []

    async def told(tickets: Sequence[Any]) -> None:
        claim = await hand.claim()
        ran.append((claim.job, (await hand.journal.plan("p")).admitted, len(tickets)))
        await hand.finish(claim)

    assert (await hand.journal.submit(*written(many(150)), told=told)).tickets == []
    assert [job for job, *_ in ran] == [f"j{n:03}" for n in range(len(ran))]
    assert len(ran) > 5
    assert ran[0][1] < 50 < ran[-1][1]
    assert sum(count for *_, count in ran) <= 150
    assert await hand.run(most=150) == [f"j{n:03}" for n in range(len(ran), 150)]
    view = await hand.journal.plan("p")
    assert (view.state, view.jobs, view.admitted, view.ended, view.dropped) == ("done", 150, 150, 150, 0)


async def test_a_producer_that_dies_while_members_are_admitted_is_not_missed(
    hand: Hand, dying: Dying
) -> None:
    async def told(_: Sequence[Any]) -> None:
        raise FleetUnavailable("the producer has died")

    with pytest.raises(FleetUnavailable):
        await dying.submit(*written(many(150)), told=told)
    view = await hand.journal.plan("p")
    assert (view.state, view.at_work) == ("running", True)
    assert (view.admitted or 0) < 150
    assert await hand.go_on() == [f"j{n:03}" for n in range(view.admitted or 0, 150)]
    assert await hand.run(most=150) == [f"j{n:03}" for n in range(150)]
    assert (await hand.journal.submit(*written(many(150)))).status == "same"


async def test_a_commit_beside_a_big_admission_goes_only_some_members_on(hand: Hand, dying: Dying) -> None:
    async def told(_: Sequence[Any]) -> None:
        raise FleetUnavailable("the producer has died")

    chain = ("fixed", "stop", "first", "second")
    with pytest.raises(FleetUnavailable):
        await dying.submit(*written(("fifo", "continue", chain, *many(300)[2:])), told=told)
    before = (await hand.journal.plan("p")).admitted or 0
    claim = await hand.claim()
    assert claim.job == "first"
    await hand.finish(claim)
    assert await hand.state("second") == "running"  # it waits for no others
    assert 0 < ((await hand.journal.plan("p")).admitted or 0) - before <= 10


# Dropping ---------------------------------------------------------------------------------------------


async def test_the_rest_of_a_big_plan_is_dropped_in_slices_and_then_it_has_ended(hand: Hand) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "first", many(150), *(f"k{n}" for n in range(50)))))
    await hand.finish(await hand.claim(), FAILED)
    view = await hand.journal.plan("p")
    assert (view.state, view.jobs, view.at_work) == ("running", 201, True)
    assert 0 < (view.dropped or 0) < 100
    assert (await hand.journal.extend("p", [starts("z", "x")])).status == "stopped"
    assert ("plan", "p") not in await told(hand), "the plan's end is told with its last member"
    await hand.go_on()
    view = await hand.journal.plan("p")
    assert (view.state, view.admitted, view.ended, view.dropped) == ("failed", 1, 1, 200)
    assert (await told(hand))[-1] == ("plan", "p")
    assert set(await hand.states("j000", "j149", "k0", "k49")) == {"cancelled"}
    assert await hand.redis("ZCARD", hand.keys.plans) == 0


async def test_members_that_need_no_step_end_in_slices_and_in_their_order(hand: Hand) -> None:
    root = many(150, "fixed")
    jobs, layout = written(root, [starts(id, ends=DONE) for id in root[2:]])
    assert (await hand.journal.submit(jobs, layout)).status == "new"
    assert await plan_state(hand) == "done"
    ended = await hand.redis("ZRANGE", hand.keys.ended, 0, -1)
    assert [job.decode() for job in ended] == list(root[2:])


# Extending --------------------------------------------------------------------------------------------

NEW = [f"n{n}" for n in range(8)]


@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("mode", ["fixed", "fifo", "agent-first"])
async def test_a_big_extension_is_there_at_once_and_in_its_order(
    hand: Hand, dying: Dying, mode: str, rest: bool
) -> None:
    await hand.journal.submit(*written((mode, "continue", "a", "b")))
    if rest:
        await hand.run()
    await extended_half(dying, 2, NEW)
    assert await hand.journal.views(NEW) == [None] * 8
    assert await plan_state(hand) == ("done" if rest else "running")
    assert (await hand.journal.plan("p")).jobs == 2
    await hand.journal.extend("p", [starts("c", "c")])  # another one, meanwhile
    done = await hand.journal.extend("p", [starts(id, id) for id in NEW])
    assert done.status == "extended"
    assert (await hand.journal.plan("p")).jobs == 11
    await hand.look()
    assert await hand.run() == ([] if rest else ["a", "b"]) + ["c", *NEW]
    assert await plan_state(hand) == "done"
    again = await hand.journal.extend("p", [starts(id, id) for id in NEW])
    assert (again.status, again.tickets) == ("extended", [])


async def test_a_failure_within_a_big_extension_stops_what_is_behind_it(hand: Hand) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "a")))
    await hand.journal.extend("p", [starts(id, id) for id in NEW])
    await hand.journal.extend("p", [starts("z", "z")])
    assert await hand.run(fails=["n3"]) == ["a", "n0", "n1", "n2", "n3"]
    await hand.go_on()
    assert await hand.states("n4", "n7", "z") == ["cancelled"] * 3
    assert await plan_state(hand) == "failed"


@pytest.mark.parametrize("taken", ["n0", "n4", "n7"])
async def test_a_big_extension_with_an_id_that_is_taken_leaves_nothing(hand: Hand, taken: str) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "a")))
    await hand.submit(starts(taken, "x", agent="other"))
    before = await hand.whole()
    done = await hand.journal.extend("p", [starts(id, id) for id in NEW])
    assert (done.status, done.conflict) == ("conflict", taken)
    now = await hand.whole()
    for whole in (before, now):
        whole[hand.keys.plan("p")].pop("n")  # a number of a node is not given twice
    assert now == before


async def test_a_big_extension_of_which_half_was_added_before_is_refused_whole(hand: Hand) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "a")))
    await hand.journal.extend("p", [starts(id, id) for id in NEW[:5]])
    done = await hand.journal.extend("p", [starts(id, id) for id in NEW])
    assert (done.status, done.conflict) == ("conflict", "n0")
    assert await hand.journal.states(NEW[5:]) == [None] * 3


async def test_an_extension_that_nobody_sends_further_is_thrown_away(hand: Hand, dying: Dying) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "a")))
    before = await hand.whole()
    await extended_half(dying, 2, NEW)
    await a_minute_passes(hand)
    await hand.go_on()
    now = await hand.whole()
    for whole in (before, now):
        whole[hand.keys.plan("p")].pop("n")
    assert now == before
    assert await hand.run() == ["a"]


async def test_an_extension_of_a_plan_that_stops_meanwhile_is_refused(hand: Hand, dying: Dying) -> None:
    await hand.journal.submit(*written(("fixed", "stop", "a")))
    await extended_half(dying, 2, NEW)
    await hand.run(fails=["a"])
    assert (await hand.journal.extend("p", [starts(id, id) for id in NEW])).status == "stopped"
    await hand.go_on()
    assert (await hand.jobs()).keys() == {"a"}


# However it is cut --------------------------------------------------------------------------------------


async def as_cut(config: FleetConfig, at_once: int, seed: int) -> tuple[list[str], dict[str, str], str]:
    """A random plan, run with one slot, its members going on so many at a time: the order, and the ends."""
    journal = Told(config)
    journal._scripts = verbs([Change("cut", "_members", "local AT_ONCE = 16", f"local AT_ONCE = {at_once}")])
    hand, R, ids = Hand(journal, config), random.Random(seed), []

    def grow(depth: int) -> tuple[Any, ...]:
        members: list[Any] = []
        for _ in range(R.randint(1, 5)):
            if depth < 3 and R.random() < 0.4:
                members.append(grow(depth + 1))
            else:
                ids.append(f"s{at_once}.{len(ids)}")
                members.append(ids[-1])
        return (R.choice(["fifo", "fixed", "agent-first"]), R.choice(["stop", "continue"]), *members)

    root = grow(0)
    jobs = [starts(id, ends=R.choice([DONE, FAILED])) for id in ids if R.random() < 0.4]
    await journal.submit(*written(root, jobs, f"p{at_once}"))
    order = []
    while True:
        await hand.go_on()
        if (claim := await journal.claim("llm", "w")) is None:
            break
        order.append(claim.job)
        await hand.finish(claim, R.choice([DONE, DONE, FAILED]))
    states = dict(zip(ids, await hand.states(*ids), strict=True))
    state = (await journal.plan(f"p{at_once}")).state
    await journal.close()
    plain = {id.partition(".")[2]: state for id, state in states.items()}
    return [id.partition(".")[2] for id in order], plain, state


@pytest.mark.parametrize("seed", range(8))
async def test_a_plan_runs_the_same_however_it_is_cut(config: FleetConfig, seed: int) -> None:
    whole = await as_cut(config, 10**6, seed)
    assert whole[2] in ("done", "failed")
    for at_once in (1, 4):
        assert await as_cut(config, at_once, seed) == whole


def test_a_job_that_alone_is_more_than_a_slice_goes_alone() -> None:
    big = starts("big", *(f"prompt {n}" for n in range(50)))
    plain = functools.partial(submitting._plain, apart=None)
    items = submitting._Items([starts("a", "x"), big, starts("b", "x")], None, plain)
    sizes = []
    at = 0
    while at < 3:
        part, jobs = items.slice(at)
        sizes.append([job["id"] for job in jobs])
        at = part["upto"]
    assert sizes == [["a"], ["big"], ["b"]]
