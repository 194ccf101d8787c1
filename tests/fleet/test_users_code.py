"""Tools and agents that raise, hang and compute as they should not, on real workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, JobFailed, JobState
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fleet.odd import (
    ODD_ANSWERS,
    TOOLS,
    asks_oddly,
    breaks_oddly,
    cleans_up_for_long,
    computes,
    hangs,
    hangs_after_a_call,
    hoards,
    plain_tool,
    reads_for_long,
    says,
    tries_all,
)
from tests.fleet.reading import called, wait_for

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]
GRACE_S = 2.0
TIMEOUT_S = 3.0
TURN_S = 5.0
MEMORY_LIMIT = 250_000_000
CALLERS = ("calls-1", "calls-2")
BEYOND_S = 10.0
"""After its grace a worker may need so long."""


@pytest.fixture(scope="module")
def fake(fake_llm: FakeLLM) -> FakeLLM:
    return fake_llm


@pytest.fixture(scope="module")
def local(redis_server: EmbeddedRedis, fleets: Any, fake: FakeLLM) -> Iterator[LocalFleet]:
    """Two workers for calls, one of four slots for tools and turns, and one for a test to end."""
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["tests.fleet.odd"],
            lease=1.5,
            renew=0.4,
            reconcile=0.3,
            shutdown_grace=GRACE_S,
            default_model="small",
            tool_timeout=TIMEOUT_S,
            turn_timeout=TURN_S,
        ),
        models={
            "small": ModelConfig(base_url=fake.url),
            "odd": ModelConfig(provider="tests.fleet.odd:OddProvider", input_price=1.0, output_price=1.0),
            "ends": ModelConfig(base_url=fake.url, lane="ends"),
        },
        pools={
            "llm": PoolConfig(lanes=["llm"], slots=8),
            "ends": PoolConfig(lanes=["ends"], slots=2, memory_limit=MEMORY_LIMIT),
            "turns": PoolConfig(lanes=["turns"], slots=4),
        },
    )
    workers = [*(WorkerSpec(name, "llm") for name in CALLERS), WorkerSpec("tools", "turns")]
    workers.append(WorkerSpec("ends", "ends"))
    with LocalFleet(config, workers, embedded_redis=False, cwd=ROOT) as started:
        yield started


@pytest.fixture
def odd(local: LocalFleet, llm: FakeLLM) -> Iterator[Fleet]:
    llm.script(latency=0.05)
    with Fleet(local.config) as opened:
        yield opened


def runs(path: Path) -> int:
    """How often a tool ran."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def resident(pid: int) -> int:
    """Bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) * 1024


def tools_worker(local: LocalFleet) -> WorkerInfo:
    """What the worker for tools says of itself."""
    (info,) = [worker for worker in local.ask(Journal.registry).workers if worker.pool == "turns"]
    return info


def test_whatever_a_tool_raises_is_a_tool_error_once(odd: Fleet, local: LocalFleet, tmp_path: Path) -> None:
    job = odd.submit(tries_all, folder=str(tmp_path))
    found = job.result(timeout=40)
    expected = {name: name.removeprefix("async ") for name in TOOLS}
    expected |= dict.fromkeys(("cancels itself", "cancels all", "gives a future"), "CancelledError")
    expected |= {"exits in a task": "nothing", "async StopIteration": "RuntimeError"}
    assert found == expected
    assert {name: runs(tmp_path / name) for name in TOOLS} == dict.fromkeys(TOOLS, 1)
    log = local.worker("tools").log.read_text().splitlines()
    line, *_ = [line for line in log if f'"job": "{job.id}"' in line and '"Panic"' in line]
    assert json.loads(line.partition("Tool failed: ")[2])["traceback"].startswith("  File ")


def test_an_agent_that_raises_what_nobody_raises_fails_once_and_its_answer_is_kept(
    odd: Fleet, local: LocalFleet, llm: FakeLLM
) -> None:
    job = odd.submit(breaks_oddly)
    with pytest.raises(JobFailed, match="KeyboardInterrupt"):
        job.result(timeout=20)
    assert called(llm, job) == {f"{job.id}/0": 1}
    assert job.steps()[0].outcome is not None
    assert job.steps()[0].outcome.ok

    def lines() -> list[str]:
        """Of whoever is in office."""
        logs = "".join(member.log.read_text() for member in local.workers)
        return [line for line in logs.splitlines() if "Job failed: " in line and job.id in line]

    wait_for(lines)
    (line,) = lines()
    said = json.loads(line.partition("Job failed: ")[2])
    assert (said["agent"], said["error"]) == ("breaks_oddly", "KeyboardInterrupt")
    assert said["traceback"].startswith("  File ")


def test_an_answer_that_an_adapter_fills_oddly_is_kept_and_asked_for_once(odd: Fleet, tmp_path: Path) -> None:
    job = odd.submit(asks_oddly, folder=str(tmp_path))
    assert job.result(timeout=30) == {kind: kind if kind != "no text" else "" for kind in ODD_ANSWERS}
    assert {kind: runs(tmp_path / kind) for kind in ODD_ANSWERS} == dict.fromkeys(ODD_ANSWERS, 1)
    assert job.view().usage.calls == len(ODD_ANSWERS)


def test_a_tool_past_its_time_fails_its_step_and_the_others_are_served(
    odd: Fleet, local: LocalFleet, tmp_path: Path
) -> None:
    limits = [None, 0.5]  # the fleet's, and the tool's own
    slow = [
        odd.submit(hangs_after_a_call, path=str(tmp_path / f"slow-{n}"), timeout=limit)
        for n, limit in enumerate(limits)
    ]
    wait_for(lambda: sum(runs(tmp_path / f"slow-{n}") for n in range(2)) == 2)
    quick = odd.submit(plain_tool, path=str(tmp_path / "quick"))
    assert quick.result(timeout=20) == 1
    for job, limit in zip(slow, limits, strict=True):
        assert f"had not ended within its timeout of {limit or TIMEOUT_S:g} s" in job.result(timeout=20)
    # Nobody waits for them any more, but their slots are taken: the worker says so, and then by what.
    wait_for(lambda: tools_worker(local).in_flight == 2)
    wait_for(lambda: f"tool hang of job {slow[1].id}" in tools_worker(local).stuck)


def test_tools_that_hang_on_all_slots_are_named_and_the_worker_begins_anew(
    odd: Fleet, local: LocalFleet, tmp_path: Path
) -> None:
    pid = local.worker("tools").pid
    traces = [tmp_path / f"hung-{n}" for n in range(4)]
    jobs = [odd.submit(hangs, path=str(trace), id=f"hung-{n}") for n, trace in enumerate(traces)]
    wait_for(lambda: sum(map(runs, traces)) >= 2)  # two slots may still be those of the test before
    for job in jobs:
        job.cancel()
    after = odd.submit(plain_tool, path=str(tmp_path / "after"))
    assert after.result(timeout=30) == 1
    log = local.worker("tools").log.read_text()
    assert "This worker begins anew: 4 threads hang: tool hang of job " in log
    assert (local.worker("tools").pid, log.count("is ready")) == (pid, 2)
    assert all(runs(trace) <= 1 for trace in traces)


def test_an_agent_that_computes_past_the_limit_fails_named_and_holds_up_nobody(
    odd: Fleet, local: LocalFleet, tmp_path: Path
) -> None:
    traces = [tmp_path / f"computes-{n}" for n in range(6)]
    slow = [odd.submit(computes, path=str(trace), seconds=TURN_S + 4.0) for trace in traces]
    wait_for(lambda: sum(map(runs, traces)) == 6)
    beside = odd.submit(says, text="beside them")
    beside.result(timeout=20)
    for job in slow:
        with pytest.raises(JobFailed, match=r"computed for more than 5 s \(turn_timeout\)"):
            job.result(timeout=20)
    assert beside.view().ended_at < min(job.view().ended_at for job in slow)
    logs = [local.worker(name).log.read_text() for name in CALLERS]
    assert any(f"Agent computes of job {slow[0].id} computes for more than" in log for log in logs)
    assert [step.state for step in slow[0].steps()] == ["done"]


def test_a_job_that_is_cancelled_while_its_turn_computes_keeps_the_answer_that_is_paid_for(
    odd: Fleet, llm: FakeLLM, tmp_path: Path
) -> None:
    job = odd.submit(computes, path=str(tmp_path / "computes"), seconds=2.0)
    wait_for(lambda: runs(tmp_path / "computes") == 1)
    assert job.steps()[0].state == "leased"
    assert job.cancel()
    wait_for(lambda: job.steps()[0].state == "done")
    assert (job.status(), len(job.steps())) == (JobState.CANCELLED, 1)
    outcome = job.steps()[0].outcome
    assert outcome is not None
    assert outcome.ok
    assert job.view().usage.calls == 1
    assert called(llm, job) == {f"{job.id}/0": 1}


def test_a_worker_above_its_memory_limit_finishes_and_begins_anew(
    odd: Fleet, local: LocalFleet, llm: FakeLLM, tmp_path: Path
) -> None:
    job = odd.submit(hoards, path=str(tmp_path / "hoard"), size=MEMORY_LIMIT, model="ends")
    member = local.worker("ends")
    wait_for(lambda: f"more than memory_limit ({MEMORY_LIMIT:,})" in member.log.read_text())
    assert job.result(timeout=20) == MEMORY_LIMIT
    wait_for(lambda: member.log.read_text().count("is ready") >= 2)
    assert set(called(llm, job).values()) == {1}
    assert resident(member.pid) < MEMORY_LIMIT


def test_a_worker_told_to_end_while_a_turn_computes_writes_the_answer(
    odd: Fleet, local: LocalFleet, llm: FakeLLM
) -> None:
    job = odd.submit(reads_for_long, seconds=2.5, model="ends")
    llm.wait_until(lambda: any(call.end is not None for call in llm.calls), timeout=30)
    begun = time.monotonic()
    assert local.stop_workers([local.worker("ends")], grace_s=GRACE_S + BEYOND_S)
    assert time.monotonic() - begun < GRACE_S + BEYOND_S
    assert isinstance(job.result(timeout=20), str)
    assert called(llm, job) == {f"{job.id}/0": 1}
    assert job.steps()[0].attempt == 1


def test_programs_are_dropped_beside_the_renewals(odd: Fleet, llm: FakeLLM) -> None:
    """Two workers in turn: each finds that its own live program is behind, and drops it."""
    jobs = odd.submit_many([cleans_up_for_long.job(calls=3, seconds=0.6) for _ in range(6)])
    for job in jobs:
        assert job.result(timeout=30) == 3
    assert set(called(llm, *jobs).values()) == {1}


def test_a_worker_ends_in_time_whatever_hangs_in_it(odd: Fleet, local: LocalFleet, tmp_path: Path) -> None:
    job = odd.submit(hangs, path=str(tmp_path / "doomed"))
    wait_for(lambda: runs(tmp_path / "doomed") == 1)
    begun = time.monotonic()
    assert local.stop_workers([local.worker("tools")], grace_s=GRACE_S + BEYOND_S)
    assert time.monotonic() - begun < GRACE_S + 5.0
    assert job.status() is JobState.RUNNING
    assert job.steps()[0].state == "ready"
    job.cancel()
