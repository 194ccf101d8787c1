"""Reads from the journal what these tests assert: which call ran when, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from aios_dist import Job, Step


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
