"""Plans of each shape that is known to be hard, for :mod:`benchmarks.plans`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aios_dist.journal import Decision, NewJob, RankedStep
from aios_dist.model.jobs import JobRecord, Kind, NewStep
from aios_dist.model.plans import Shape
from aios_dist.program.turns import MOST_BYTES, MOST_STEPS

TENANTS = 100


class Case(NamedTuple):
    """A plan's shape.

    Attributes:
        name: what it is called in the table.
        lay: so many jobs, laid out: the node of each, and the plan.
        part: which part of the members of the largest it has.
        steps: first steps of each job.
        size: bytes of each request.
        limited: behind a model's limits and those of its tenants, on a shared lane.
        taken: the last id is another job's: all of it is thrown away.
    """

    name: str
    lay: Callable[[int], tuple[list[int], Shape]]
    part: float = 0.05
    steps: int = 1
    size: int = 18
    limited: bool = False
    taken: bool = False


def step(size: int = 18) -> RankedStep:
    """A step as a turn asks for it."""
    return RankedStep(NewStep(Kind.LLM, "llm", b"j" + b"x" * size, "d" * 24, "small", estimate=1))


def jobs_of(case: Case, nodes: Sequence[int]) -> list[NewJob]:
    """The plan's jobs."""
    decision = Decision(0, 0, [step(case.size)] * case.steps)
    return [
        NewJob(_name(n), JobRecord("a", {"n": n}, f"tenant-{n % TENANTS}"), decision, node=node)
        for n, node in enumerate(nodes)
    ]


def _name(n: int) -> str:
    return f"p.{n}"


def _flat(mode: str) -> Callable[[int], tuple[list[int], Shape]]:
    def lay(count: int) -> tuple[list[int], Shape]:
        links = [(0, n, f"j{_name(n)}") for n in range(count)]
        return [0] * count, Shape("p", [(mode, -1, count, "stop")], links)

    return lay


def _groups(mode: str, inner: str, each: int) -> Callable[[int], tuple[list[int], Shape]]:
    def lay(count: int) -> tuple[list[int], Shape]:
        groups = max(1, count // each)
        owners = [1 + n // each for n in range(groups * each)]
        nodes = [(mode, -1, groups, "stop"), *((inner, 0, each, "stop") for _ in range(groups))]
        links = [(0, g, f"n{g + 1}") for g in range(groups)]
        links += [(owner, n % each, f"j{_name(n)}") for n, owner in enumerate(owners)]
        return owners, Shape("p", nodes, links)

    return lay


def _nested(count: int) -> tuple[list[int], Shape]:
    """One group in another, as deep as Python's stack lets a producer write it, or the count."""
    depth = max(2, min(900, count))
    nodes = [("fixed", d - 1, 2 if d == 0 else 1, "stop") for d in range(depth)]
    links = [(d, 0, f"n{d + 1}") for d in range(depth - 1)]
    return [depth - 1, 0], Shape("p", nodes, [*links, (depth - 1, 0, f"j{_name(0)}"), (0, 1, f"j{_name(1)}")])


CASES = (
    Case("fixed", _flat("fixed"), 1.0),
    Case("fifo", _flat("fifo"), 1.0),
    Case("tens in fixed order", _groups("fixed", "fifo", 10)),
    Case("fifo of fixed tens", _groups("fifo", "fixed", 10)),
    Case("fifo of ones", _groups("fifo", "fifo", 1)),
    Case("nested 900 deep", _nested),
    Case("fifo behind limits", _flat("fifo"), limited=True),
    Case("wide jobs", _flat("fifo"), 0.002, steps=MOST_STEPS),
    Case("wide jobs behind limits", _flat("fifo"), 0.002, steps=MOST_STEPS, limited=True),
    Case(
        "jobs as large as may be", _flat("fifo"), 0.0005, steps=MOST_STEPS, size=MOST_BYTES // MOST_STEPS - 10
    ),
    Case("thrown away", _flat("fifo"), taken=True),
)
