"""Celery's soft time limit in a task that waits for a job: the task gets Celery's own exception, in time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from celery import Celery

from aios_dist import Fleet, prompts
from aios_dist.config import Config
from aios_dist.local.redis_server import EmbeddedRedis
from tests.producers.programs import START_S, Scene, process

pytestmark = pytest.mark.timeout(200)

ONE = prompts("one", ["say {input}"], model="small")
WORKER = ("celery", "-A", "tests.producers.celery_app", "worker", "-P", "prefork", "-c", "3", "-l", "WARNING")


def test_a_soft_limit_in_a_wait_is_what_the_task_gets(fleet: Fleet, config: Config, tmp_path: Path) -> None:
    job = fleet.submit(ONE, input="x")
    with EmbeddedRedis().start() as broker:
        there = {"AIOS_REDIS_URL": config.fleet.redis_url, "AIOS_FLEET": config.fleet.name}
        env = {**os.environ, **there, "PRODUCERS_CELERY": broker.url}
        scene = Scene(dir=tmp_path, env=env, celery=broker.url, jobs=0, half=lambda: None)
        with process(scene, "celery", *WORKER), Celery("asks", broker=broker.url, backend=broker.url) as app:
            sent = [app.send_task("waits", (how, job.id)) for how in ("result", "events", "as_completed") * 2]
            got = [task.get(timeout=START_S) for task in sent]
    assert {name for name, _ in got} == {"SoftTimeLimitExceeded"}, got
    assert max(seconds for _, seconds in got) < 20
