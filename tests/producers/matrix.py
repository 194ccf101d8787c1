"""All kinds of programs at once on one fleet, and its Redis killed in the middle of their jobs."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import FakeLLM
from aios_dist.testing.calls import Call
from aios_dist.testing.replies import text_of
from tests.producers.programs import PROGRAMS, ROOT, Scene, Tally, meeting
from tests.producers.work import answer_to

CALLS_FIRST = 10
"""So many calls of the second half are answered before Redis dies."""


def run(jobs: int, names: Sequence[str] = tuple(PROGRAMS)) -> dict[str, Tally]:
    """Of some ``jobs`` jobs of each program: how many brought the right answer ("ok"), and all else."""

    def reply(call: Call) -> str:
        return answer_to(text_of(call.messages[-1]))

    config = Config(
        fleet=FleetConfig(
            name="producers", modules=["tests.producers.agents"], lease=2.0, renew=0.5, reconcile=0.5
        ),
        models={"small": ModelConfig(base_url="", lane="llm")},
        pools={"llm": PoolConfig(lanes=["llm", "turns"], slots=32)},
    )
    with (
        tempfile.TemporaryDirectory(prefix="aios-prod-") as dir,
        EmbeddedRedis().start() as celery,
        FakeLLM(latency=0.01, reply=reply) as llm,
    ):
        config.models["small"] = ModelConfig(base_url=llm.url, lane="llm")
        with LocalFleet(config, [WorkerSpec("one", "llm")], data=Path(dir, "redis"), cwd=ROOT) as machine:
            redis, killed = machine.redis, threading.Event()
            assert redis is not None

            def kill_redis() -> None:
                seen = llm.count
                llm.wait_until(lambda: llm.count >= seen + CALLS_FIRST, timeout=30)
                redis.kill()
                redis.restart()
                killed.set()

            begin = threading.Thread(target=kill_redis)
            scene = Scene(
                dir=Path(dir),
                env={
                    **os.environ,
                    "AIOS_CONFIG": str(machine.config_path),
                    "PRODUCERS_CELERY": celery.url,
                    "PYTHONUNBUFFERED": "1",
                },
                celery=celery.url,
                jobs=jobs,
                half=meeting(len(names), begin.start),
            )
            with ThreadPoolExecutor(len(names)) as threads:
                running = {name: threads.submit(_one, name, scene) for name in names}
                found = {name: future.result() for name, future in running.items()}
            if begin.ident is not None:
                begin.join()
            if not killed.is_set():
                found["redis"] = Tally(["it was not killed"])
            return found


def _one(name: str, scene: Scene) -> Tally:
    try:
        return PROGRAMS[name](scene)
    except Exception as error:
        scene.half()  # the others do not wait for this one
        return Tally([f"{type(error).__name__}: {error}"])
