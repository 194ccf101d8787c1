"""What a program has missed is told in its order, or not at all: a live program follows the journal by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from aios_dist.errors import ToolError
from aios_dist.journal.news import MOST
from aios_dist.journal.records import Decision
from aios_dist.model.jobs import JobState, Outcome, Rejection
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from aios_dist.journal import History
    from aios_dist.journal.news import News
    from tests.redis.conftest import Hand


async def since(hand: Hand, stood: History) -> News | None:
    """What has come since the job was read."""
    view = stood.view
    return await hand.journal.news(view.id, stood.basis, view.outcomes, view.steps, stood.events)


def told(news: News | None) -> list[str]:
    """In words: steps that were asked for, outcomes."""
    assert news is not None
    return [
        f"{step.number} {step.outcome.result().text if step.outcome is not None else 'asked'}"
        for step in news.written
    ]


async def test_outcomes_and_steps_are_told_as_they_came(hand: Hand) -> None:
    await hand.submit(starts("j", "a", "b", "c"))
    first = await hand.journal.load("j")
    claims = [await hand.claim() for _ in range(3)]
    await hand.commit(claims[1], "one")
    second = await hand.journal.load("j")
    await hand.commit(claims[0], "two")
    await hand.journal.advance("j", decides(2, 3, "d", "e"))
    await hand.commit(claims[2], "three")
    last = await hand.journal.load("j")
    for stood, missed in (
        (first, ["1 one", "0 two", "3 asked", "4 asked", "2 three"]),
        (second, ["0 two", "3 asked", "4 asked", "2 three"]),
        (last, []),
    ):
        for seen in (stood, msgspec.structs.replace(stood, events=0)):
            news = await since(hand, seen)
            assert told(news) == missed
            assert news is not None
            assert news.basis == last.basis
            assert news.open


async def test_events_that_were_looked_at_are_not_looked_at_again(hand: Hand) -> None:
    await hand.submit(starts("j", "a", "b"))
    stood = await hand.journal.load("j")
    await hand.commit(await hand.claim(), "one")
    news = await since(hand, stood)
    assert news is not None
    await hand.commit(await hand.claim(), "two")
    more = await hand.journal.news("j", news.basis, 1, 2, news.events)
    assert more is not None
    assert [step.number for step in more.written] == [1]
    assert await hand.journal.news("j", news.basis, 1, 2, more.events) is None, "none of it was found"


async def test_a_step_that_went_to_another_model_is_told_as_it_was_asked_for(hand: Hand) -> None:
    await hand.submit(starts("j", "a"))
    stood = await hand.journal.load("j")
    await hand.commit(await hand.claim(), decision=decides(1, 1, "b"))
    claim = await hand.claim()
    await hand.journal.release(claim, "no", to=("other", "llm"))
    news = await since(hand, stood)
    assert news is not None
    assert [(s.number, s.label) for s in news.written] == [(0, "small"), (1, "other")]


async def test_another_life_of_the_job_tells_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "a"))
    stood = await hand.journal.load("j")
    await hand.finish(await hand.claim(), JobState.FAILED)
    assert not (await since(hand, stood) or pytest.fail("it has ended, and says so")).open
    await hand.journal.retry("j")
    assert await since(hand, stood) is None
    assert await hand.journal.news("nobody", stood.basis, 0, 1, 0) is None


async def test_a_journal_that_was_put_back_tells_nothing_to_who_saw_more(hand: Hand) -> None:
    await hand.submit(starts("j", "a", "b", "c"))
    claims = [await hand.claim() for _ in range(3)]
    await hand.commit(claims[0], "kept")
    saved = [await hand.redis("DUMP", key) for key in (hand.keys.job("j"), hand.keys.events("j"))]
    await hand.commit(claims[1], "forgotten")
    stood = await hand.journal.load("j")
    for key, dump in zip((hand.keys.job("j"), hand.keys.events("j")), saved, strict=True):
        await hand.redis("RESTORE", key, 0, dump, "REPLACE")
    assert await since(hand, stood) is None
    await hand.commit(claims[2], "another")
    await hand.commit(claims[1], "forgotten")
    assert await since(hand, stood) is None


async def test_who_has_missed_very_much_replays(hand: Hand) -> None:
    await hand.submit(starts("j", "a"))
    stood = await hand.journal.load("j")
    await hand.commit(await hand.claim(), "one")
    first = await hand.redis("LINDEX", hand.keys.events("j"), 0)
    await hand.redis("LPUSH", hand.keys.events("j"), *[first] * MOST)
    assert await since(hand, stood) is None
    assert (await hand.journal.load("j")).basis


@pytest.mark.parametrize("broken", [b"\xc1", b"\x91\x01"])
async def test_what_cannot_be_read_tells_nothing(hand: Hand, broken: bytes) -> None:
    await hand.submit(starts("j", "a"))
    stood = await hand.journal.load("j")
    await hand.commit(await hand.claim(), "one")
    whole = await hand.redis("HGET", hand.keys.job("j"), "h0")
    await hand.redis("HSET", hand.keys.job("j"), "h0", broken)
    assert await since(hand, stood) is None
    await hand.redis("HSET", hand.keys.job("j"), "h0", whole)


async def test_without_its_requests_a_job_is_read_as_it_is_at_one_moment(hand: Hand) -> None:
    await hand.submit(starts("j", *(str(n) for n in range(30))))
    for _ in range(10):
        await hand.commit(await hand.claim())
    whole, brief = await hand.journal.load("j"), await hand.journal.load("j", requests=False)
    assert all(step.request is None for step in brief.steps)
    assert [s.outcome for s in brief.steps] == [s.outcome for s in whole.steps]
    assert [s.digest for s in brief.steps] == [s.digest for s in whole.steps]
    assert (brief.basis, brief.record, brief.view) == (whole.basis, whole.record, whole.view)


async def test_what_was_refused_or_looked_up_before_a_step_stays_with_it_for_good(
    hand: Hand,
) -> None:
    await hand.submit(starts("j", "a"))
    stood = await hand.journal.load("j")
    refused = (Rejection("UnknownName", "There is no model 'big'.", "d"), Rejection("InvalidInput", "ä", ""))
    looked_up = (Outcome(value={"region": "eu"}), Outcome.failed(ToolError("x")))
    ranked = decides(1, 1, "b").steps[0]
    step = msgspec.structs.replace(ranked.step, rejected=refused, once=looked_up)
    asked = msgspec.structs.replace(ranked, step=step)
    await hand.commit(await hand.claim(), decision=Decision(1, 1, [asked]))
    missed = await since(hand, stood)
    assert missed is not None
    assert [(s.rejected, s.once) for s in missed.written if s.outcome is None] == [(refused, looked_up)]
    await hand.commit(await hand.claim(), ok=False, decision=decides(2, 2, ends=JobState.FAILED))
    await hand.journal.retry("j")
    await hand.journal.fork("j", "f", 2)
    for job in ("j", "f"):
        for requests in (True, False):
            history = await hand.journal.load(job, requests=requests)
            assert [(step.rejected, step.once) for step in history.steps] == [((), ()), (refused, looked_up)]
    await hand.look()
