"""The events of a job: while it only waits they are in no list, and nobody who reads them can tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

from aios_dist.model.jobs import JobState, Outcome
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    import redis

    from aios_dist.journal.views import Event
    from tests.redis.conftest import Hand

Life = Callable[["Hand"], AsyncIterator[None]]
LIVES: dict[Life, str] = {}
"""What happens to the job ``j``, verb by verb, and its events at the end; ``-`` is no step of the program."""


def leaves(events: str) -> Callable[[Life], Life]:
    """The life leaves these events behind."""

    def keep(life: Life) -> Life:
        LIVES[life] = events
        return life

    return keep


@leaves("submitted-, ready 0, ready 1, ready 2, started 0, started 1, done 0, done-")
async def asks_three_things_at_once(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j", "a", "b", "c"))
    yield
    claim = await hand.claim()
    yield
    await hand.claim()
    yield
    await hand.finish(claim)
    yield


@leaves("submitted-, ready-, started-, ready 0, ready 1, started 0")
async def is_begun_by_a_worker(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j"))
    yield
    turn = await hand.claim("turns")
    yield
    await hand.journal.advance("j", decides(0, 0, "a", "b"), token=turn.token)
    yield
    await hand.claim()
    yield


@leaves("submitted-, ready-, ready 0, ready 1, cancelled-")
async def is_begun_by_its_producer_before_a_worker_takes_the_turn(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j"))
    yield
    await hand.journal.advance("j", decides(0, 0, "a", "b"))
    yield
    await hand.journal.cancel("j")
    yield


@leaves("submitted-, ready 0, started 0, done 0, ready-, started-, ready 1, started 1")
async def runs_its_next_turn_elsewhere(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j", "a"))
    yield
    await hand.commit(await hand.claim(), turn_here=False)
    yield
    turn = await hand.claim("turns")
    yield
    await hand.journal.advance("j", decides(1, 1, "b"), token=turn.token)
    yield
    await hand.claim()
    yield


@leaves("submitted-, ready 0, timed 1, waiting 2, ready 3, done 1, ready-")
async def sleeps_and_waits_beside_its_calls(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j", "a", "sleep:60", "signal:go", "b"))
    yield
    await hand.ring()
    await hand.reap()
    yield


@leaves("submitted-, admitted-, ready 0, ready 1, started 0")
async def waits_for_its_plan(hand: Hand) -> AsyncIterator[None]:
    await hand.plan("p", ("fixed", "stop", "before", "j"), [starts("j", "a", "b")])
    yield
    await hand.finish(await hand.claim())
    yield
    await hand.claim()
    yield


@leaves("submitted-, admitted-, ready-, started-")
async def waits_for_its_plan_without_a_step(hand: Hand) -> AsyncIterator[None]:
    await hand.plan("p", ("fixed", "stop", "before"))
    await hand.journal.extend("p", [starts("j")])
    yield
    await hand.finish(await hand.claim())
    yield
    await hand.claim("turns")
    yield


@leaves("submitted-, signal-, reranked-, cancelled-")
async def is_cancelled_while_its_plan_lets_it_wait(hand: Hand) -> AsyncIterator[None]:
    await hand.plan("p", ("fixed", "stop", "before", "j"))
    yield
    await hand.journal.signal("j", "go", Outcome())
    yield
    await hand.journal.rerank("j", 3)
    yield
    await hand.journal.cancel("j")
    yield


@leaves("submitted-, ready 0, reranked-, cancelled-, retried-, ready 0, ready-")
async def is_tried_again_after_it_was_cancelled(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j", "a"))
    yield
    await hand.journal.rerank("j", 3)
    yield
    await hand.journal.cancel("j")
    yield
    await hand.journal.retry("j")
    yield


@leaves("submitted-, ready 0, ready 1, paused-, resumed-, released 0, released 1, started 0")
async def is_paused_before_anyone_takes_a_step(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j", "a", "b"))
    yield
    await hand.journal.pause("j")
    yield
    await hand.journal.resume("j")
    yield
    await hand.claim()
    yield


@leaves("submitted-, ready-, paused-, resumed-, ready-")
async def is_paused_before_its_first_turn(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("j"))
    yield
    await hand.journal.pause("j")
    yield
    await hand.journal.resume("j")
    yield


@leaves("submitted-, ready 1, ready 2, ready-, started 1")
async def is_forked_from_another(hand: Hand) -> AsyncIterator[None]:
    await hand.submit(starts("other", "a", "b", "c"))
    await hand.commit(await hand.claim())
    await hand.journal.fork("other", "j", 3)
    yield
    for _ in range(3):
        await hand.claim()
        yield


@leaves("submitted-, ready 0, ready 1, started 0, retry 0, started 1")
async def goes_to_another_model_while_a_limit_holds_it(hand: Hand) -> AsyncIterator[None]:
    await hand.limit("small", flight=1)
    await hand.submit(starts("j", "a", "b"))
    yield
    claim = await hand.claim()
    assert await hand.journal.claim("llm", "w2") is None
    yield
    await hand.journal.release(claim, "500", 60, error=ValueError("x"), to=("big", "llm"))
    yield
    await hand.claim()
    yield


def named(events: list[Event]) -> str:
    return ", ".join(f"{e.what}{'-' if e.step is None else f' {e.step}'}" for e in events)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
async def test_who_reads_early_sees_what_is_written_later(
    hand: Hand, redis_client: redis.Redis, life: Life
) -> None:
    channel = hand.keys.events("j")
    news = redis_client.pubsub(ignore_subscribe_messages=True)
    news.subscribe(channel)
    news.get_message(timeout=5)
    seen: list[Event] = []
    async for _ in life(hand):
        now = await hand.journal.events("j")
        assert now[: len(seen)] == seen
        assert [e.index for e in now] == list(range(len(now)))
        for after in range(-1, len(now) + 1):
            assert await hand.journal.events("j", after) == now[after + 1 :]
        assert await hand.journal.events("j") == now, "reading writes nothing"
        seen = now
    assert named(seen) == LIVES[life]
    assert len(seen) == await hand.redis("LLEN", channel)
    await hand.redis("PUBLISH", channel, "that is all")
    told = []
    while (message := news.get_message(timeout=5)) and message["data"] != b"that is all":
        told.append(message["data"].decode())
    assert told == [e.what for e in seen]
    news.close()


@pytest.mark.parametrize("prompts", [(), ("a",), ("a", "b", "c")])
async def test_a_job_that_only_waits_has_no_list(hand: Hand, prompts: tuple[str, ...]) -> None:
    await hand.submit(starts("j", *prompts))
    assert len(await hand.journal.events("j")) == 1 + (len(prompts) or 1)
    assert await hand.redis("EXISTS", hand.keys.events("j")) == 0
    await hand.journal.cancel("j")
    assert await hand.redis("EXISTS", hand.keys.events("j")) == 1


async def test_what_is_read_early_says_when_and_which_model(hand: Hand) -> None:
    await hand.submit(starts("j", "a", "b", model="big"))
    submitted, first, second = await hand.journal.events("j")
    job = await hand.journal.load("j")
    assert submitted.at == job.view.submitted_at
    assert [(e.at, e.detail) for e in (first, second)] == [(step.ready_at, "big") for step in job.steps]
    await hand.finish(await hand.claim(), JobState.FAILED)
    assert (await hand.journal.events("j"))[:3] == [submitted, first, second]


async def test_a_fork_says_of_what(hand: Hand) -> None:
    await hand.submit(starts("other", "a"))
    await hand.journal.fork("other", "j", 1)
    assert [e.detail for e in await hand.journal.events("j")] == ["fork of other", "small", "turn"]
