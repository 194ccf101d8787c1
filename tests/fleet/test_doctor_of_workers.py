"""What ``aios-dist doctor`` says of real workers that stand there and serve nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet
from aios_dist.broker.app import make_app
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fleet.reading import wait_for
from tests.fleet.shown import calls

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def one_worker(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(), redis_url=redis_server.url, lease=1.0, renew=0.3, reconcile=0.3
        ),
        models={"small": ModelConfig(base_url=fake_llm.url)},
        pools={"all": PoolConfig(lanes=["llm", "turns"], slots=2)},
    )
    with LocalFleet(config, [WorkerSpec("bare", "all")], embedded_redis=False, cwd=ROOT) as machine:
        yield machine


def says(machine: LocalFleet, check: str) -> list[str]:
    """What doctor has to say that is not well."""
    done = subprocess.run(
        [sys.executable, "-m", "aios_dist.cli", "doctor", "--json"],
        env={**os.environ, "AIOS_CONFIG": str(machine.config_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)["findings"]
    return [f["what"] for f in found if f["check"] == check and f["level"] != "ok"]


def test_a_worker_whose_consumer_was_cancelled_is_named_until_it_takes_steps_again(
    one_worker: LocalFleet,
) -> None:
    app = make_app(one_worker.config)
    node = one_worker.registered("bare").node
    wait_for(lambda: not one_worker.registered("bare").cancelled)
    app.control.cancel_consumer("llm", destination=[node], reply=True, timeout=5)
    wait_for(lambda: one_worker.registered("bare").cancelled == ["llm"])
    (what,) = says(one_worker, "workers")
    assert "takes nothing from lane 'llm'" in what
    app.control.add_consumer("llm", destination=[node], reply=True, timeout=5)
    wait_for(lambda: one_worker.registered("bare").cancelled == [])
    assert says(one_worker, "workers") == []
    assert says(one_worker, "remote control") == []
    app.close()


def test_an_agent_that_no_worker_has_is_said_in_the_log_once_a_minute(
    one_worker: LocalFleet, caplog: pytest.LogCaptureFixture
) -> None:
    with Fleet(one_worker.config) as fleet:
        jobs = [fleet.submit(calls) for _ in range(3)]
        (warned,) = [r.getMessage() for r in caplog.records if "the code of" in r.getMessage()]
        assert warned.startswith(
            "No worker that runs has the code of agent 'calls' (workers have: none): its "
        )
        log = one_worker.worker("bare").log

        def said() -> list[str]:
            return [line for line in log.read_text().splitlines() if "of agent 'calls'" in line]

        wait_for(said)
        assert "on lane 'turns' for a worker with the code " in said()[0]
        wait_for(lambda: all(job.steps()[0].state == "done" for job in jobs))
        size = len(log.read_text().splitlines())  # and nothing is said again and again
        first = one_worker.ask(lambda journal: journal.now())
        wait_for(lambda: one_worker.ask(lambda journal: journal.now()) > first + 6)  # looked at again
        assert len(said()) == 1
        assert len(log.read_text().splitlines()) - size < 5
        (what,) = says(one_worker, "agents")
        assert what.startswith("No worker that runs has the code of agent 'calls', and there are 3 open jobs")
        for job in jobs:
            job.cancel()


def test_a_worker_that_is_stopped_is_named_also_when_it_has_left_the_list(one_worker: LocalFleet) -> None:
    pid, node = one_worker.worker("bare").pid, one_worker.registered("bare").node
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not one_worker.ask(lambda journal: journal.registry()).workers)
        (what,) = [what for what in says(one_worker, "workers") if f"Worker {node}:{pid}:" in what]
        assert "has not renewed for " in what
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not [what for what in says(one_worker, "workers") if node in what])
