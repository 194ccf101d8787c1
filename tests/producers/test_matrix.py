"""Each kind of program, as the real thing: its jobs bring their answers, while Redis dies and comes back."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.producers.matrix import run
from tests.producers.programs import PROGRAMS

JOBS = 48
"""Of each; ``python -m tests.producers`` does a thousand."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def found() -> dict[str, Counter[str]]:
    return run(JOBS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_job_of_every_kind_of_program_brings_its_own_answer_though_redis_dies_between(
    found: dict[str, Counter[str]], program: str
) -> None:
    tally = found[program]
    assert set(tally) == {"ok"}, tally
    assert tally["ok"] >= JOBS
    assert "redis" not in found, found["redis"]
