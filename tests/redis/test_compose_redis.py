"""The Redis of docker-compose.yml, by its own command: with the accounts of the example, for any fleet."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from aios_dist.local.owned_process import start_owned

ROOT = Path(__file__).parents[2]
PASSWORDS = {
    "REDISCLI_AUTH": "a1b2",
    "REDIS_WORKER_PASSWORD": "c3d4",
    "REDIS_FLOWER_PASSWORD": "e5f6",
}


class Server:
    """What the container runs, in a folder."""

    def __init__(self, folder: Path, fleet: str, **env: str) -> None:
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["redis"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        shell, flag, command = (word.replace("$$", "$") for word in service["command"])
        for there, here in (
            ("/etc/redis/aios.conf", str(ROOT / "deploy/redis/redis.conf")),
            ("/etc/redis/users.acl.example", str(ROOT / "deploy/redis/users.acl.example")),
            ("/tmp/users.acl", str(folder / "users.acl")),
            ("--dir /data", f"--dir {folder} --port {self.port} --bind 127.0.0.1"),
        ):
            assert there in command
            command = command.replace(there, here)
        wanted = set(re.findall(r"\$([A-Z_]+)|ENVIRON\[\"([A-Z_]+)\"\]", command))
        known = {name for pair in wanted for name in pair if name}
        assert known <= service["environment"].keys()
        self.process = start_owned(
            [shell, flag, command],
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "REDIS_MAXMEMORY": "1gb",
                "AIOS_FLEET": fleet,
                **env,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate()

    def client(self, user: str | None = None, password: str | None = None) -> redis.Redis:
        return redis.Redis(port=self.port, username=user, password=password, decode_responses=True)

    def ready(self) -> Server:
        end = time.monotonic() + 30
        while True:
            try:
                self.client("admin", PASSWORDS["REDISCLI_AUTH"]).ping()
                return self
            except redis.exceptions.AuthenticationError:
                raise
            except redis.exceptions.ConnectionError:  # not yet
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if shutil.which("redis-server") is None or shutil.which("awk") is None:
        pytest.skip("there is no redis-server, or no awk, on this machine")
    made = Server(tmp_path, "shop-1.x", **PASSWORDS)
    yield made.ready()
    made.end()


def test_each_account_has_its_password_and_the_keys_of_this_fleet(server: Server, tmp_path: Path) -> None:
    worker = server.client("aios-worker", PASSWORDS["REDIS_WORKER_PASSWORD"])
    assert worker.set("aios:{shop-1.x}:2:clock", "1")
    assert worker.lpush("shop-1.x.llm", "ticket") == 1
    assert worker.publish("shop-1.x./0.celery.pidbox", "x") == 0
    flower = server.client("aios-flower", PASSWORDS["REDIS_FLOWER_PASSWORD"])
    assert flower.llen("shop-1.x.llm") == 1
    for client, command in (
        (worker, ("GET", "aios:{aios}:2:clock")),
        (worker, ("LLEN", "aios.llm")),
        (flower, ("RPOP", "shop-1.x.llm")),
        (flower, ("EVAL", "return 1", 0)),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    with pytest.raises(redis.exceptions.AuthenticationError):
        server.client().ping()
    admin = server.client("admin", PASSWORDS["REDISCLI_AUTH"])
    assert sorted(admin.acl_users()) == ["admin", "aios-flower", "aios-worker", "default"]
    assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert (tmp_path / "users.acl").stat().st_mode & 0o077 == 0


def test_a_producers_account_is_there_where_it_has_a_password(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "with"
    folder.mkdir()
    made = Server(folder, "aios", REDIS_PRODUCER_PASSWORD="07a8", **PASSWORDS)
    try:
        producer = made.ready().client("aios-producer", "07a8")
        assert producer.lpush("aios.llm", "ticket") == 1
        with pytest.raises(redis.exceptions.NoPermissionError):
            producer.rpop("aios.llm")
    finally:
        made.end()


def test_what_scripts_wrote_is_there_after_a_restart(server: Server, tmp_path: Path) -> None:
    """Redis 7.0 reads its append-only file as the nameless user, and asks for rights where scripts wrote."""
    writes = "for n = 1, 3 do redis.call('HSET', KEYS[1] .. n, 'st', 'done') end"
    server.client("aios-worker", PASSWORDS["REDIS_WORKER_PASSWORD"]).eval(writes, 1, "aios:{shop-1.x}:2:job:")
    server.end()
    again = Server(tmp_path, "shop-1.x", **PASSWORDS)
    try:
        assert again.ready().client("admin", PASSWORDS["REDISCLI_AUTH"]).dbsize() == 3
    finally:
        again.end()


@pytest.mark.parametrize("name", ["REDISCLI_AUTH", "REDIS_WORKER_PASSWORD"])
def test_a_password_that_would_not_be_taken_as_it_is_ends_redis_with_a_sentence(
    tmp_path: Path, name: str
) -> None:
    made = Server(tmp_path, "aios", **{**PASSWORDS, name: "a&b 1"})
    said = made.process.communicate(timeout=30)[1].decode()
    variable = {"REDISCLI_AUTH": "REDIS_PASSWORD"}.get(name, name)
    assert (said, made.process.returncode) == (
        f"{variable} may have letters and digits only: openssl rand -hex 24\n",
        1,
    )
