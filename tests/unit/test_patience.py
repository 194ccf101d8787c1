"""Waiting for a Redis that is away, on a loop whose time is counted and not waited for."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aios_dist.errors import FleetUnavailable, RedisUnfit
from aios_dist.journal.patience import Patience


class Away:
    """A question that is answered at the nth time; before that Redis is away."""

    def __init__(self, answered: int, why: type[FleetUnavailable] = FleetUnavailable) -> None:
        self.asked, self._answered, self._why = 0, answered, why

    async def __call__(self) -> str:
        self.asked += 1
        if self.asked < self._answered:
            raise self._why(f"away {self.asked}")
        return "here"


def test_pauses_double_up_to_the_longest() -> None:
    assert list(itertools.islice(Patience(0.1, 1.0).pauses(), 6)) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_each_failure_is_told_and_each_pause_passed_until_there_is_an_answer() -> None:
    told: list[str] = []
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    question = Away(4)
    answer = await Patience(0.1, 0.2).ask(question, away=lambda why: told.append(str(why)), wait=wait)
    assert (answer, told, waited) == ("here", ["away 1", "away 2", "away 3"], [0.1, 0.2, 0.2])


async def test_who_is_told_may_end_the_wait() -> None:
    def unless_unfit(why: FleetUnavailable) -> None:
        if isinstance(why, RedisUnfit):
            raise why

    question = Away(9, RedisUnfit)
    with pytest.raises(RedisUnfit, match="away 1"):
        await Patience(5.0, 5.0).ask(question, away=unless_unfit)
    assert question.asked == 1


async def test_it_ends_and_says_for_how_long_it_was_asked() -> None:
    with pytest.raises(FleetUnavailable, match=r"^away \d+ It was asked for 0 s\.$"):
        await Patience(0.001, 0.001, 0.02).ask(Away(10**9))


async def test_a_redis_that_was_away_and_then_says_nothing_is_waited_for_no_longer() -> None:
    async def silent() -> None:
        silent_asked.append(1)
        if len(silent_asked) == 1:
            raise FleetUnavailable("away.")
        await asyncio.Event().wait()

    silent_asked: list[int] = []
    with pytest.raises(FleetUnavailable, match=r"away\. It was asked for"):
        await asyncio.wait_for(Patience(0.0, 0.0, 0.05).ask(silent), 10)
    assert len(silent_asked) == 2


async def test_the_first_answer_may_take_longer_than_the_patience() -> None:
    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "here"

    assert await Patience(0.0, 0.0, 0.01).ask(slow) == "here"


async def test_a_question_whose_own_time_is_over_is_not_asked_again() -> None:
    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await Patience(0.0, 0.0, 10.0).ask(late)
