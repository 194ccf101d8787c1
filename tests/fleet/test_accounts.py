"""A fleet whose workers, producer and Flower have the accounts of ``deploy/redis/users.acl.example``."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import redis

from aios_dist import Fleet
from aios_dist.broker.app import make_app
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.local.config_file import write_config
from aios_dist.local.machine import WorkerSpec
from aios_dist.local.members import Launch, Member, environment
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import wait_for

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/redis/users.acl.example"
LOGIN = "admin:of-flower"


class Guarded(NamedTuple):
    """A fleet named ``aios``, and who sees it with which account."""

    admin: redis.Redis
    producer: Config
    flower: Config
    worker: Member
    page: str

    def ask(self, path: str, *, post: bool = False) -> Any:
        """Flower's answer."""
        coded = base64.b64encode(LOGIN.encode()).decode()
        asked = urllib.request.Request(
            self.page + path, b"" if post else None, {"Authorization": f"Basic {coded}"}
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def guarded(fake_llm: FakeLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("accounts")
    with (
        EmbeddedRedis(settings={"acllog-max-len": "1000"}) as server,
        redis.Redis.from_url(server.url) as admin,
    ):
        for line in RULES.read_text("utf-8").splitlines():
            _, name, *rules = re.sub(r"REPLACE-(\w+)", r"of-\1", line).split(" ")
            if name.startswith("aios-"):
                joined = re.findall(r"\([^)]*\)|\S+", " ".join(rules))
                admin.execute_command("ACL", "SETUSER", name, *joined)

        def seen_by(user: str) -> Config:
            url = server.url.replace("//", f"//aios-{user}:of-{user}@")
            return Config(
                fleet=fleet_config("aios", url),
                models={"small": ModelConfig(base_url=fake_llm.url)},
                pools={"all": PoolConfig(lanes=["llm", "turns"], slots=4)},
            )

        files = {}
        for user in ("worker", "flower"):
            files[user] = folder / f"{user}.toml"
            write_config(seen_by(user), files[user])
        worker = Launch(folder, environment(files["worker"]), ROOT).worker(WorkerSpec("guarded", "all"))
        flower = Launch(folder, environment(files["flower"]), ROOT).flower(0, LOGIN)
        try:
            wait_for(lambda: (worker.check(), worker.is_ready)[1], 60)
            wait_for(lambda: (flower.check(), flower.wrote(r"(http://\S+)"))[1], 60)
            page = flower.wrote(r"(http://\S+)") or ""
            yield Guarded(admin, seen_by("producer"), seen_by("flower"), worker, page)
        finally:
            for member in (worker, flower):
                member.kill()


def refused(guarded: Guarded) -> list[str]:
    """What Redis has refused so far, to whom."""
    return [f"{entry['username']}: {entry['object']}" for entry in guarded.admin.acl_log()]


def test_all_that_a_fleet_does_is_allowed_and_nothing_else_is_tried(guarded: Guarded, llm: FakeLLM) -> None:
    """Jobs, a change of rules, Flower's rows, numbers and buttons; minutes of it sweep kombu's book too."""
    llm.script(latency=0.3)
    with Fleet(guarded.producer) as fleet:
        jobs = [fleet.submit(caller, calls=3, model="small") for _ in range(6)]
        fleet.set_lane("llm", policy="las", fair="tenant")
        jobs += [fleet.submit(caller, calls=1, model="small", tenant=f"t{n}") for n in range(3)]
        for job in jobs:
            job.result(timeout=60)
        jobs[0].events()
        wait_for(lambda: f"job {jobs[0].id}," in str(guarded.ask("/api/tasks?limit=1000")))
        wait_for(lambda: "guarded" in str(guarded.ask("/api/workers?refresh=1")))
        (worker,) = guarded.ask("/api/workers?refresh=1")
        pressed = guarded.ask(f"/api/worker/pool/grow/{worker}?n=1", post=True)
        assert "Growing" in pressed["message"]
    assert refused(guarded) == []


def test_flower_counts_the_steps_that_wait_without_a_script(guarded: Guarded, llm: FakeLLM) -> None:
    llm.script(latency=2.0)
    guarded.admin.config_resetstat()
    with Fleet(guarded.producer) as fleet:
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(12)]
        llm.wait_until(lambda: llm.in_flight >= 4, 30.0)

        def waiting() -> bool:
            rows = guarded.ask("/api/queues/length")["active_queues"]
            return any(row["name"] == "llm" and row["messages"] > 0 for row in rows)

        wait_for(waiting)
        for job in jobs:
            job.result(timeout=60)
    assert refused(guarded) == []


def test_flowers_account_cannot_touch_a_lane_nor_run_a_script(guarded: Guarded) -> None:
    with redis.Redis.from_url(guarded.flower.fleet.redis_url) as flower:
        for command in (
            ("LPUSH", "aios.llm", "x"),
            ("DEL", "aios.llm"),
            ("RPOP", "aios.llm"),
            ("EVAL", "while true do end", 0),
            ("SCRIPT", "LOAD", "return 1"),
            ("CLIENT", "TRACKING", "ON", "BCAST"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                flower.execute_command(*command)
    guarded.admin.acl_log_reset()


def test_a_producers_account_cannot_steer_workers_nor_make_events(guarded: Guarded) -> None:
    app = make_app(guarded.producer)
    with pytest.raises(Exception, match=r"(?i)no permissions|noperm"):
        app.control.broadcast("shutdown")
    app.close()
    assert not guarded.worker.ended
    guarded.admin.acl_log_reset()


@pytest.mark.parametrize("user", ["worker", "producer"])
def test_doctor_is_content_with_the_documented_accounts(
    guarded: Guarded, user: str, tmp_path: Path, llm: FakeLLM
) -> None:
    url = guarded.producer.fleet.redis_url.replace("producer", user)
    fleet = msgspec.structs.replace(guarded.producer.fleet, redis_url=url)
    found = findings(msgspec.structs.replace(guarded.producer, fleet=fleet), tmp_path)
    assert [f["level"] for f in found if f["check"] in ("rights", "functions")] == ["ok", "ok"]
    assert [f for f in found if f["check"] == "key names"] == []
    guarded.admin.acl_log_reset()


def test_doctor_warns_of_an_account_that_hears_every_applications_keys(
    guarded: Guarded, tmp_path: Path
) -> None:
    guarded.admin.execute_command("ACL", "SETUSER", "aios-producer", "+client|tracking")
    try:
        (found,) = [f for f in findings(guarded.producer, tmp_path) if f["check"] == "key names"]
    finally:
        guarded.admin.execute_command("ACL", "SETUSER", "aios-producer", "-client|tracking")
    assert (found["level"], found["fix"]) == ("warning", "ACL SETUSER aios-producer -client|tracking")
    guarded.admin.acl_log_reset()


def findings(config: Config, folder: Path) -> list[dict[str, Any]]:
    """What doctor finds with this account."""

    write_config(config, folder / "aios.toml")
    done = subprocess.run(
        [sys.executable, "-m", "aios_dist.cli", "doctor", "--json"],
        env={**os.environ, "AIOS_CONFIG": str(folder / "aios.toml")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return list(json.loads(done.stdout)["findings"])
