"""Reads from the journal what these tests assert: which call ran when, and where."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from aios_dist import AsyncFleet, Job, Step
from aios_dist.config import Config
from aios_dist.journal import History
from aios_dist.testing import Call, FakeLLM
from aios_dist.worker.steps import as_sent, idempotency_key

MOST_TRIES = 12
"""More than any step of these tests has."""


def calls(job: Job) -> list[Step]:
    """The job's calls to models, in the order of their numbers."""
    return [step for step in job.steps() if step.kind == "llm"]


def order(named: Mapping[str, Job]) -> str:
    """The calls of all jobs in the order in which they started: ``A1 B1 A2``."""
    started = [
        (step.started_at, f"{name}{place}")
        for name, job in named.items()
        for place, step in enumerate(calls(job), start=1)
    ]
    return " ".join(label for _, label in sorted(started))


def finish(named: Mapping[str, Job], timeout: float = 30.0) -> None:
    """Wait for all; raises what made one fail."""
    for job in named.values():
        job.result(timeout=timeout)


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Look until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def called(llm: FakeLLM, *jobs: Job, status: int | None = None) -> Counter[str]:
    """How often each call of these jobs reached the LLM (and came to that status), as ``JOB/STEP``."""
    found = calls_of(llm, *jobs)
    return Counter(step for step, call in found if status in (None, call.status))


def calls_of(llm: FakeLLM, *jobs: Job) -> list[tuple[str, Call]]:
    """The calls of these jobs, each with its ``JOB/STEP``, in the order in which they came."""
    steps: dict[str, str] = {}
    for job in jobs:
        config, history = job._fleet._run(lambda fleet, id=job.id: _history(fleet, id))
        life = history.basis.partition(".")[0]
        for step in history.steps:
            model = as_sent(step.label, config.models.get(step.label))
            for tries in range(MOST_TRIES):
                key = idempotency_key(config.fleet.name, life, str(step.number), model, step.digest, tries)
                steps[key] = f"{job.id}/{step.number}"
    keys = [(call.headers["idempotency-key"], call) for call in llm.calls]
    return [(steps[key], call) for key, call in keys if key in steps]


async def _history(fleet: AsyncFleet, id: str) -> tuple[Config, History]:
    return fleet.config, await fleet.journal.load(id)
