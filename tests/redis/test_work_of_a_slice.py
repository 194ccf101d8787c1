"""No write stands for longer than some milliseconds: what it does is bounded, whatever shape a plan has.

Counted are the commands that Redis runs for a verb, which are the same on every machine. (A millisecond is
200 to 400 of them; ``make bench ARGS=plans`` has the times.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist import AsyncFleet, agent, gather, llm
from aios_dist.config import Config, ModelConfig
from aios_dist.journal import Journal, NewJob
from aios_dist.model.jobs import JobState
from aios_dist.model.plans import Shape
from aios_dist.program.turns import MOST_STEPS
from tests.redis.conftest import Hand, starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig

MOST = 900
"""Commands of one verb: 15 jobs of a step, or one of 20, behind a model's and their tenants' limits."""
MOST_LOOKS = 200
"""… of one that has one job at hand, and goes through nodes."""
DEEP, JOBS, WIDE = 350, 80, 8


@asynccontextmanager
async def counted(journal: Journal) -> AsyncIterator[list[tuple[str, int]]]:
    """The verbs that are called within, and the commands that each has run."""
    seen: list[tuple[str, int]] = []
    eval_ = journal.connection.eval

    async def commands() -> int:
        said = (await journal.connection.command("INFO", "commandstats")).decode()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in said.split() if "calls=" in line)

    async def measured(script: Any, *args: Any, **more: Any) -> Any:
        before = await commands()
        try:
            return await eval_(script, *args, **more)
        finally:
            seen.append((script.name, await commands() - before - 2))  # FCALL itself, and the first INFO

    journal.connection.eval = measured  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        journal.connection.eval = eval_  # type: ignore[method-assign]


def jobs_of(count: int, node: Any, steps: int = 1, name: str = "j") -> list[NewJob]:
    made = [
        starts(f"{name}{n}", *(f"{n} {s}" for s in range(steps)), tenant=f"t{n % 3}") for n in range(count)
    ]
    return [msgspec.structs.replace(job, node=node(n)) for n, job in enumerate(made)]


def flat(mode: str, steps: int = 1, count: int = JOBS) -> tuple[list[NewJob], Shape]:
    jobs = jobs_of(count, lambda n: 0, steps)
    links = [(0, n, f"j{job.id}") for n, job in enumerate(jobs)]
    return jobs, Shape("p", [(mode, -1, count, "stop")], links)


def hybrid(mode: str, inner: str, each: int) -> tuple[list[NewJob], Shape]:
    groups = JOBS // each
    jobs = jobs_of(JOBS, lambda n: 1 + n // each)
    nodes = [(mode, -1, groups, "stop"), *((inner, 0, each, "stop") for _ in range(groups))]
    links = [(0, g, f"n{g + 1}") for g in range(groups)]
    links += [(1 + n // each, n % each, f"j{job.id}") for n, job in enumerate(jobs)]
    return jobs, Shape("p", nodes, links)


def mixed() -> tuple[list[NewJob], Shape]:
    """Nine narrow jobs, then a wide one."""
    jobs, shape = flat("fifo")
    wide = {job.id: job for job in jobs_of(JOBS, lambda n: 0, MOST_STEPS)}
    return [wide[job.id] if n % 10 == 9 else job for n, job in enumerate(jobs)], shape


def deep() -> tuple[list[NewJob], Shape]:
    """One group in another; the first job is in the innermost."""
    jobs = jobs_of(2, lambda n: DEEP - 1 if n == 0 else 0)
    nodes = [("fixed", d - 1, 2 if d == 0 else 1, "stop") for d in range(DEEP)]
    links = [(d, 0, f"n{d + 1}") for d in range(DEEP - 1)]
    return jobs, Shape("p", nodes, [*links, (DEEP - 1, 0, "jj0"), (0, 1, "jj1")])


SHAPES = {
    "fifo": lambda: flat("fifo"),
    "fixed": lambda: flat("fixed"),
    "fixed order of groups": lambda: hybrid("fixed", "fifo", 10),
    "groups with an order": lambda: hybrid("fifo", "fixed", 10),
    "groups of one": lambda: hybrid("fifo", "fifo", 1),
    "deep": deep,
    "narrow and wide jobs": mixed,
    "wide jobs": lambda: flat("fifo", MOST_STEPS, WIDE),
    "wide jobs in order": lambda: flat("fixed", MOST_STEPS, WIDE),
}


async def limits(hand: Hand) -> None:
    await hand.limit(flight=8, rpm=10_000, tpm=10_000_000)
    await hand.journal.set_lane("llm", policy="fifo", oldest_every=10, fair="tenant")
    for n in range(3):
        await hand.journal.set_tenant(f"t{n}", max_in_flight=2)


def check(seen: Sequence[tuple[str, int]], most: int = MOST) -> None:
    assert seen
    assert max(seen, key=lambda verb: verb[1])[1] <= most, sorted(seen, key=lambda verb: -verb[1])[:5]


@pytest.mark.parametrize("limited", [False, True], ids=["", "behind limits"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_slice_of_a_plan_does_is_bounded_whatever_its_shape(
    hand: Hand, shape: str, limited: bool
) -> None:
    await hand.warm()
    if limited:
        await limits(hand)
    jobs, layout = SHAPES[shape]()
    async with counted(hand.journal) as seen:
        await hand.journal.submit(jobs, layout)
        await hand.finish(await hand.claim(), JobState.FAILED)
        await hand.go_on()
    check(seen, MOST_LOOKS if shape == "deep" else MOST)


@pytest.mark.parametrize("steps", [1, MOST_STEPS])
async def test_so_is_what_one_does_that_is_thrown_away_or_extends_a_plan(hand: Hand, steps: int) -> None:
    await hand.warm()
    await limits(hand)
    count = JOBS if steps == 1 else WIDE
    jobs, layout = flat("fifo", steps, count)
    await hand.submit(starts(jobs[-1].id, "taken"))
    async with counted(hand.journal) as seen:
        assert (await hand.journal.submit(jobs, layout)).status == "conflict"
        await hand.plan("q", ("fifo", "stop", "first"))
        more = jobs_of(count, lambda n: None, steps, "more")
        assert (await hand.journal.extend("q", [*more, jobs[-1]])).status == "conflict"
        assert (await hand.journal.extend("q", more)).status == "extended"
    check(seen)
    assert len(await hand.jobs()) == count + 2


@agent(name="slice-wide")
async def wide(n: int) -> int:
    return len(await gather(*(llm(f"{n} {branch}") for branch in range(MOST_STEPS))))


@agent(name="slice-narrow")
async def narrow(n: int) -> str:
    return (await llm(f"{n}")).text


async def test_so_is_what_one_part_of_many_jobs_does(config: FleetConfig, hand: Hand) -> None:
    await hand.warm()
    await limits(hand)
    known = Config(
        fleet=msgspec.structs.replace(config, default_model="small"), models={"small": ModelConfig("openai")}
    )
    async with AsyncFleet(known) as fleet, counted(fleet.journal) as seen:
        await fleet.submit_many([narrow.job(n=n) for n in range(JOBS)])
        await fleet.submit_many([wide.job(n=n) for n in range(WIDE)])
        check(seen)
    assert len(await hand.jobs()) == JOBS + WIDE
