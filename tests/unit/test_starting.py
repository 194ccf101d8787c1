"""Settings of Celery's that the file of a worker changes: what is the fleet's is refused, and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from aios_dist.broker.app import make_app
from aios_dist.config import Config, PoolConfig
from aios_dist.errors import ConfigError
from aios_dist.runtime import worker_app
from aios_dist.worker.starting import check_settings, check_slots

POOL = PoolConfig(lanes=["llm"])
ELSEWHERE = "redis://127.0.0.1:1/0"
CHANGES: dict[str, Any] = {
    "accept_content": ["pickle"],
    "broker_read_url": ELSEWHERE,
    "broker_transport_options": {"visibility_timeout": 3600},
    "broker_url": ELSEWHERE,
    "control_exchange": "others",
    "event_exchange": "others",
    "task_acks_late": True,
    "task_always_eager": True,
    "task_default_queue": "celery",
    "task_queues": [Queue("celery")],
    "task_routes": {"*": "celery"},
    "task_serializer": "pickle",
    "task_time_limit": 1,
    "worker_direct": True,
    "worker_disable_prefetch": False,
    "worker_enable_remote_control": False,
    "worker_max_tasks_per_child": 2,
    "worker_pool": "threads",
    "worker_prefetch_multiplier": 100,
    "worker_send_task_events": False,
}


@pytest.fixture
def app() -> Celery:
    return make_app(Config(), POOL, current=False)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_the_fleets_is_refused_and_named(app: Celery, name: str) -> None:
    check_settings(app, Config(), POOL)
    app.conf[name] = CHANGES[name]
    with pytest.raises(ConfigError, match=rf"are the fleet's \(([a-z_]+, )*{name}"):
        check_settings(app, Config(), POOL)


def test_also_one_that_is_changed_where_it_stands_or_comes_from_a_module_of_settings(app: Celery) -> None:
    app.conf.broker_transport_options["global_keyprefix"] = "others."
    with pytest.raises(ConfigError, match=r"\(broker_transport_options\)"):
        check_settings(app, Config(), POOL)
    for force in (False, True):
        app = make_app(Config(), POOL, current=False)
        app.config_from_object({"worker_direct": True, "timezone": "Asia/Tokyo"}, force=force)
        with pytest.raises(ConfigError, match=r"\(worker_direct\)"):
            check_settings(app, Config(), POOL)


def test_what_is_the_users_may_be_set(app: Celery) -> None:
    app.conf.update(worker_log_format="%(message)s", worker_concurrency=3, beat_schedule={"x": {}}, mine=1)
    check_settings(app, Config(), POOL)


@pytest.mark.parametrize("slots", [0, -3, 100_001, "auto", 1.5, True, None])
def test_slots_are_a_number_of_some(slots: object) -> None:
    with pytest.raises(ConfigError, match=r"^-c: a worker has from 1 to 100,000 slots, not "):
        check_slots(slots, "-c")


def test_slots_that_a_file_asks_for_are_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    ask: Callable[..., Celery] = worker_app
    with pytest.raises(SystemExit) as ended:
        ask("llm", slots=-3, config=Config())
    assert ended.value.code == 2
    assert "aios-dist: worker_app('llm', slots=…): a worker has from 1 to " in capsys.readouterr().err
