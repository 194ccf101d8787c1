"""Submitting: the same id twice is the same job, and what is refused leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import UnknownName
from aios_dist.model.jobs import JobState
from tests.redis.conftest import plan_of, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def test_a_job_is_there_as_it_was_submitted(hand: Hand) -> None:
    done = await hand.journal.submit([starts("j", "one", "two")])
    assert (done.status, done.new) == ("new", [True])
    assert [(t.lane, t.job, t.step) for t in done.tickets] == [("llm", "j", "0"), ("llm", "j", "1")]
    history = await hand.journal.load("j")
    assert (history.view.state, history.view.steps, history.view.outcomes) == (JobState.RUNNING, 2, 0)
    assert (history.view.agent, history.view.plan) == ("a", None)
    assert [s.state.value for s in history.steps] == ["ready", "ready"]


async def test_the_same_id_twice_is_the_same_job(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    before = await hand.whole()
    again = await hand.journal.submit([starts("j", "one")])
    assert (again.status, again.new, again.tickets) == ("new", [False], [])
    assert await hand.whole() == before


@pytest.mark.parametrize("ended", ["running", "leased", "done", "cancelled"])
async def test_a_job_is_the_same_wherever_it_has_come_to(hand: Hand, ended: str) -> None:
    await hand.submit(starts("j", "one"))
    if ended == "cancelled":
        await hand.journal.cancel("j")
    elif ended != "running":
        claim = await hand.claim()
        if ended == "done":
            await hand.finish(claim)
    before = await hand.whole()
    assert (await hand.journal.submit([starts("j", "one")])).new == [False]
    assert await hand.whole() == before


async def test_of_many_jobs_only_the_new_ones_are_written(hand: Hand) -> None:
    await hand.submit(starts("b", "x"))
    done = await hand.journal.submit([starts("a", "x"), starts("b", "x"), starts("c", "x")])
    assert done.new == [True, False, True]
    assert [t.job for t in done.tickets] == ["a", "c"]
    assert await hand.names() == ["b/0", "a/0", "c/0"]


async def test_an_id_with_other_input_is_refused_and_nothing_of_the_call_is_written(hand: Hand) -> None:
    await hand.submit(starts("b", "x"))
    before = await hand.whole()
    done = await hand.journal.submit([starts("a", "x"), starts("b", "x", agent="other"), starts("c", "x")])
    assert (done.status, done.conflict, done.tickets) == ("conflict", "b", [])
    assert await hand.whole() == before


async def test_the_same_id_twice_in_one_call_is_one_job(hand: Hand) -> None:
    done = await hand.journal.submit([starts("a", "x"), starts("a", "x")])
    assert (done.status, done.new) == ("new", [True, False])
    assert len(done.tickets) == 1
    assert [e.what for e in await hand.journal.events("a")] == ["submitted", "ready"]


async def test_one_id_with_two_inputs_in_one_call_is_refused(hand: Hand) -> None:
    done = await hand.journal.submit([starts("a", "x"), starts("a", "x", agent="other")])
    assert (done.status, done.conflict) == ("conflict", "a")
    assert await hand.whole() == {}


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED])
async def test_a_job_may_end_in_its_first_turn(hand: Hand, state: JobState) -> None:
    done = await hand.journal.submit([starts("j", ends=state)])
    assert (done.status, done.tickets) == ("new", [])
    assert (await hand.journal.state("j"))[0] is state
    assert [e.what for e in await hand.journal.events("j")] == ["submitted", state.value]


async def test_no_jobs_are_no_mistake(hand: Hand) -> None:
    assert (await hand.journal.submit([])).status == "new"
    assert await hand.whole() == {}


async def test_an_unknown_job_or_plan_is_named(hand: Hand) -> None:
    with pytest.raises(UnknownName, match="'nobody'"):
        await hand.journal.state("nobody")
    with pytest.raises(UnknownName, match="'nobody'"):
        await hand.journal.load("nobody")
    with pytest.raises(UnknownName, match="'nobody'"):
        await hand.journal.plan("nobody")
    assert await hand.journal.views(["nobody"]) == [None]
    assert await hand.journal.states(["nobody"]) == [None]
    assert await hand.journal.events("nobody") == []


async def test_jobs_are_listed_newest_first(hand: Hand) -> None:
    for id in ("a", "b", "c"):
        await hand.submit(starts(id, "x"))
    await hand.finish(await hand.claim())
    assert [v.id for v in await hand.journal.list_jobs()] == ["c", "b", "a"]
    assert [v.id for v in await hand.journal.list_jobs(ended=False)] == ["c", "b"]
    assert [v.id for v in await hand.journal.list_jobs(ended=True)] == ["a"]
    assert [v.id for v in await hand.journal.list_jobs(limit=2)] == ["c", "b"]


async def test_a_thousand_jobs_in_one_call(hand: Hand) -> None:
    done = await hand.journal.submit([starts(f"j{i:04}", "x") for i in range(1000)])
    assert len(done.tickets) == 1000
    counts = await hand.journal.counts(["llm"])
    assert counts == {"open": 1000, "leased": 0, "timed": 0, "ready:llm": 1000}


# Plans -------------------------------------------------------------------------------------------


async def test_a_plan_twice_is_the_same_plan(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    before = await hand.whole()
    shape, _ = plan_of("p", ("fixed", "stop", "a", "b"))
    again = await hand.journal.submit([starts("a", "a"), starts("b", "b")], shape)
    assert (again.status, again.tickets) == ("same", [])
    assert await hand.whole() == before


async def test_a_plan_is_the_same_after_some_of_its_jobs_have_expired(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.finish(await hand.claim())
    await hand.redis("UNLINK", hand.keys.job("a"), hand.keys.events("a"))  # its retention is over
    shape, _ = plan_of("p", ("fixed", "stop", "a", "b"))
    assert (await hand.journal.submit([starts("a", "a"), starts("b", "b")], shape)).status == "same"


@pytest.mark.parametrize(
    ("root", "conflict"),
    [
        (("fixed", "stop", "a", "c"), "c"),
        (("fixed", "stop", "a"), "p"),
        (("fifo", "stop", "a", "b"), "p"),
        (("fixed", "continue", "a", "b"), "p"),
        (("fixed", "stop", "b", "a"), "p"),
        (("fixed", "stop", ("fifo", "stop", "a", "b")), "p"),
    ],
)
async def test_another_plan_under_the_same_id_is_refused(
    hand: Hand, root: tuple[object, ...], conflict: str
) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    before = await hand.whole()
    shape, owners = plan_of("p", root)
    done = await hand.journal.submit([starts(id, id) for id in owners], shape)
    assert (done.status, done.conflict) == ("conflict", conflict)
    assert await hand.whole() == before


@pytest.mark.parametrize("taken", ["a", "b", "c"])
async def test_a_plan_with_a_job_that_exists_is_refused_whole(hand: Hand, taken: str) -> None:
    await hand.submit(starts(taken, taken))
    before = await hand.whole()
    shape, owners = plan_of("p", ("fixed", "stop", "a", ("fifo", "stop", "b", "c")))
    done = await hand.journal.submit([starts(id, id) for id in owners], shape)
    assert (done.status, done.conflict, done.tickets) == ("conflict", taken, [])
    assert await hand.whole() == before


async def test_a_plan_with_an_id_twice_is_refused_whole(hand: Hand) -> None:
    shape, _ = plan_of("p", ("fixed", "stop", "a", "a"))
    done = await hand.journal.submit([starts("a", "x"), starts("a", "x")], shape)
    assert (done.status, done.conflict) == ("conflict", "a")
    assert await hand.whole() == {}
