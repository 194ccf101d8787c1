"""Keys live in the worker's environment and nowhere else; prompts stay out of logs and of Flower."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, JobFailed, prompts
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller

if TYPE_CHECKING:
    import redis

    from aios_dist.local.redis_server import EmbeddedRedis

KEY = "sk-planted-3f9a1c77"
WRONG = "sk-planted-wrong-55"
SECRET = "the prompt that nobody may read"


@pytest.fixture
def guarded(
    redis_server: EmbeddedRedis, fleets: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LocalFleet, FakeLLM]]:
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setenv("WRONG_KEY", WRONG)
    with FakeLLM(api_key=KEY) as llm:
        config = Config(
            fleet=FleetConfig(
                name=fleets.new_name(), redis_url=redis_server.url, modules=["tests.fleet.agents"]
            ),
            models={
                "good": ModelConfig(base_url=llm.url, api_key_env="THE_KEY"),
                "bad": ModelConfig(base_url=llm.url, api_key_env="WRONG_KEY"),
            },
            pools={"all": PoolConfig(lanes=["llm", "turns"], slots=4)},
        )
        root = Path(__file__).parents[2]
        workers = [WorkerSpec("machine-1", "all")]
        with LocalFleet(config, workers, embedded_redis=False, flower=0, cwd=root) as machine:
            yield machine, llm


def test_no_key_and_no_prompt_is_where_it_must_not_be(
    guarded: tuple[LocalFleet, FakeLLM], redis_client: redis.Redis
) -> None:
    machine, llm = guarded
    with Fleet(machine.config) as fleet:
        fleet.submit(caller, calls=2, model="good", id="planted-good").result(timeout=30)
        with pytest.raises(JobFailed) as failed:
            fleet.submit(caller, calls=1, model="bad", id="planted-bad").result(timeout=30)
        fleet.submit(prompts("secret", [SECRET], model="good").job()).result(timeout=30)
    assert {call.status for call in llm.calls} == {200, 401}

    keys = (KEY, WRONG)
    places = {
        "Redis": _everything_in(redis_client),
        "the logs": b"\n".join(member.log.read_bytes() for member in machine.members),
        "the error": str(failed.value).encode(),
        "Flower": _flower(machine),
    }
    assert b"planted-good" in places["Redis"]
    assert b"planted-good" in places["Flower"]
    for place, text in places.items():
        for key in keys:
            assert key.encode() not in text, f"a key is in {place}"
            assert base64.b64encode(key.encode()) not in text, f"a key is in {place}, encoded"
    for place in ("the logs", "Flower"):
        assert SECRET.encode() not in places[place], f"a prompt is in {place}"


def _everything_in(client: redis.Redis) -> bytes:
    """All keys with all that is in them, as Redis itself prints it (nothing here is over 1 KiB, so nothing
    is compressed)."""
    reads: dict[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    parts = []
    for key in client.scan_iter(count=1000):
        parts += [key, repr(reads[client.type(key)](key)).encode()]
    return b"\n".join(parts)


def _flower(machine: LocalFleet) -> bytes:
    login = base64.b64encode(machine.flower_login.encode()).decode()
    pages = []
    for path in ("/api/tasks?limit=1000", "/tasks", "/workers", "/broker"):
        asked = urllib.request.Request(machine.flower_url + path, headers={"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            pages.append(answer.read())
    assert json.loads(pages[0]), "Flower knows no task"
    return b"\n".join(pages)
