"""``aios-dist doctor`` on a Redis that is none for a fleet, on odd workers, and on addresses of models."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aios_dist.cli.checks import lanes, providers
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.journal import Journal, Registry, WorkerInfo
from aios_dist.local.redis_server import EmbeddedRedis
from tests.redis import command_line
from tests.redis.command_line import Done, announce

cli, folder = command_line.cli, command_line.folder
Cli = Callable[..., Done]


def found(done: Done, check: str) -> list[tuple[str, str, str | None]]:
    """Level, words and fix of a check's findings."""
    return [(f["level"], f["what"], f["fix"]) for f in done.json["findings"] if f["check"] == check]


def problem(done: Done, check: str, words: str) -> tuple[str, str | None]:
    """The one finding with these words that is not well."""
    bad = [f for f in found(done, check) if f[0] != "ok"]
    ((_, what, fix),) = [f for f in bad if words in f[1]] or bad
    assert words in what
    return what, fix


# -- Redis --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(settings={"cluster-enabled": "yes"}) as server:
        yield server


def test_a_redis_cluster_is_said_in_a_sentence(
    cli: Cli, cluster: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_REDIS_URL", cluster.url)
    done = cli("doctor", "--json")
    _, fix = problem(done, "redis", "is a Redis Cluster, and Celery has no transport for it.")
    assert fix == "Use one Redis, or Sentinel."
    assert "problem, 0 warnings." in cli("doctor").out
    for call in (["submit", "greet", "--input", '"x"'], ["job", "list"], ["worker", "llm"], ["fleet"]):
        refused = cli(*call)
        assert refused.code in (1, 2), refused
        assert "is a Redis Cluster" in refused.err
        assert refused.err.count("\n") == 1


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A port that speaks TLS alone, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = {"tls-port": str(port), "tls-cert-file": str(cert), "tls-key-file": str(key)}
    settings |= {"tls-ca-cert-file": str(cert), "tls-auth-clients": "no"}
    with EmbeddedRedis(settings=settings):
        yield port, cert


def test_tls_against_a_plain_port_and_the_other_way_round_name_the_right_scheme(
    cli: Cli, redis_url: str, with_tls: tuple[int, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, cert = with_tls
    text = (folder / "aios.toml").read_text()
    (folder / "aios.toml").write_text(text.replace("[fleet]", "[fleet]\nredis_timeout = 1"))
    monkeypatch.setenv("AIOS_REDIS_URL", f"redis://localhost:{port}/0")
    assert problem(cli("doctor", "--json"), "redis", "cannot be reached")[1] == (
        "Start it or set AIOS_REDIS_URL (a port that wants TLS takes rediss://)."
    )
    monkeypatch.setenv("AIOS_REDIS_URL", redis_url.replace("redis://", "rediss://"))
    assert problem(cli("doctor", "--json"), "redis", "does not answer within 1 s")[1] == (
        "A port that speaks no TLS takes redis://."
    )
    monkeypatch.setenv("AIOS_REDIS_URL", f"rediss://localhost:{port}/0")
    _, fix = problem(cli("doctor", "--json"), "redis", "shows a certificate that is refused")
    assert "ssl_ca_certs" in str(fix)
    monkeypatch.setenv("AIOS_REDIS_URL", f"rediss://localhost:{port}/0?ssl_ca_certs={cert}")
    assert found(cli("doctor", "--json"), "redis")[0][0] == "ok"


def test_a_database_that_is_not_there_is_said(
    cli: Cli, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_REDIS_URL", redis_url.rpartition("/")[0] + "/9999")
    assert problem(cli("doctor", "--json"), "redis", "has no such database")


# -- Workers -----------------------------------------------------------------------------------------


def test_a_worker_that_was_told_to_take_nothing_is_named(cli: Cli, redis_url: str, fleet_name: str) -> None:
    announce(redis_url, fleet_name, cancelled=["llm"])
    _, fix = problem(cli("doctor", "--json"), "workers", "takes nothing from lane 'llm'")
    assert "add_consumer llm" in str(fix)


def test_a_worker_that_is_silent_for_longer_than_three_leases_is_still_named(
    cli: Cli, redis_url: str, fleet_name: str
) -> None:
    announce(redis_url, fleet_name, late=300.0)
    _, fix = problem(cli("doctor", "--json"), "workers", "has not renewed for 3")
    assert "kill -CONT" in str(fix)
    seen = cli("fleet", "--json").json
    assert seen["workers"] == []
    assert [lane["workers"] for lane in seen["lanes"]] == [0, 0]
    announce(redis_url, fleet_name, late=4000.0)
    assert not [f for f in found(cli("doctor", "--json"), "workers") if f[0] == "warning"]


def test_a_worker_that_another_process_has_replaced_is_not_missed() -> None:
    def worker(id: str, seen_at: float) -> WorkerInfo:
        return WorkerInfo(id=id, host="h", pid=1, pool="llm", lanes=["llm"], slots=1, seen_at=seen_at)

    old, new, gone = worker("a@h:1:x", 100.0), worker("a@h:2:y", 199.0), worker("b@h:3:z", 100.0)
    registry = Registry(workers=[new], silent=[old, gone], now=200.0)
    found = [f.what for f in lanes.workers(Config(), registry, 200.0) if f.level == "warning"]
    assert found == ["Worker b@h:3:z has not renewed for 100 s; its steps went to others."]


def test_a_worker_that_renews_and_does_not_hear_celery_is_named(
    cli: Cli, redis_url: str, fleet_name: str
) -> None:
    announce(redis_url, fleet_name)
    what, _ = problem(cli("doctor", "--json"), "remote control", "does not answer Celery's remote control")
    assert "Worker llm@test " in what


def test_slots_that_are_free_while_steps_wait_are_a_problem(
    cli: Cli, redis_url: str, fleet_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.cli.checks.deaf.LONG_S", 0.0)
    cli("submit", "greet", "--input", '"Ada"')
    announce(redis_url, fleet_name, in_flight=1)
    what, _ = problem(cli("doctor", "--json"), "lanes", "slots")
    assert what.startswith("Lane 'llm': 1 step waits, the first for ")
    assert what.endswith(" s, and free are 3 slots.")
    announce(redis_url, fleet_name, in_flight=4)
    assert not [f for f in found(cli("doctor", "--json"), "lanes") if "free are" in f[1]]
    announce(redis_url, fleet_name, late=20.0)  # killed: it is in the registry for three leases
    said = [what for level, what, _ in found(cli("doctor", "--json"), "lanes") if level != "ok"]
    assert said == ["Lane 'llm' has no worker, and 1 step waits on it."]


def test_an_agent_whose_code_no_worker_has_is_said_where_people_look(
    cli: Cli, redis_url: str, fleet_name: str, folder: Path
) -> None:
    (folder / "mine.py").write_text(
        "from aios_dist import agent, llm\n\n@agent\nasync def mine_only() -> str:\n"
        '    return (await llm("x", model="small")).text\n'
    )
    text = (folder / "aios.toml").read_text()
    (folder / "aios.toml").write_text(text.replace("modules = []", 'modules = ["mine"]'))
    announce(redis_url, fleet_name, agents=["others"])
    submitted = cli("submit", "mine_only")
    assert submitted.code == 0
    assert "No worker that runs has the code of agent 'mine_only' (workers have: others)" in submitted.err
    id = submitted.out.split()[0]
    shown = cli("job", "show", id)
    assert "It waits for a worker with the code of agent 'mine_only': none that runs has it." in shown.out
    assert cli("job", "show", id, "--json").json["waits_for"] == ["agent/mine_only"]
    what, _ = problem(cli("doctor", "--json"), "agents", "'mine_only'")
    assert what == ("No worker that runs has the code of agent 'mine_only', and there is 1 open job of it.")
    announce(redis_url, fleet_name, agents=["others", "mine_only"])
    assert cli("submit", "mine_only").err == ""
    assert not [f for f in found(cli("doctor", "--json"), "agents") if f[0] == "problem"]


def test_one_problem_is_one(cli: Cli, redis_url: str, fleet_name: str) -> None:
    announce(redis_url, fleet_name)
    said = cli("doctor").out.splitlines()[-1]
    assert said.startswith("1 problem, "), said  # the append-only file


# -- Addresses of models ------------------------------------------------------------------------------


class Refuses(BaseHTTPRequestHandler):
    """A provider without a key."""

    heard: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.heard.append(dict(self.headers))
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_addresses_are_asked_when_asked_to_and_any_answer_is_one(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-sent")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server, socket.socket() as closed:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        closed.bind(("127.0.0.1", 0))
        dead, alive = closed.getsockname()[1], server.server_port
        (folder / "aios.toml").write_text(
            (folder / "aios.toml").read_text().replace("127.0.0.1:1/v1", f"127.0.0.1:{dead}/v1")
            + f'\n[models.other]\nbase_url = "http://127.0.0.1:{dead}/v1"\n'
            + f'[models.good]\nbase_url = "http://127.0.0.1:{alive}/v1"\n'
        )
        assert found(cli("doctor", "--json"), "probe") == []
        done = cli("doctor", "--probe", "--json")
        server.shutdown()
    what, _ = problem(done, "probe", f"http://127.0.0.1:{dead}/v1")
    assert what.endswith("(model 'small' and 1 more): Connection refused.")
    assert [f for f in found(done, "probe") if f[0] == "ok"]
    (heard,) = Refuses.heard
    assert "sk-not-sent" not in str(heard)
    assert "Authorization" not in heard


class Proxy(Refuses):
    """What stands between, and has an address for one name only."""

    heard: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.send_response(401 if "good.invalid" in self.path else 502)
        self.end_headers()


async def test_they_are_asked_by_the_proxy_of_the_workers_and_what_is_no_address_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = {
        "good": "http://good.invalid/v1",
        "dead": "http://dead.invalid/v1",
        "bare": "localhost:8000/v1",
        "half": "http://[::1/v1",
        "far": "http://127.0.0.1:99999/v1",
    }
    config = Config(models={name: ModelConfig(base_url=url) for name, url in addresses.items()})
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        said = [finding async for finding in providers.probe(config)]
        server.shutdown()
    assert [finding.level.value for finding in said] == ["ok", *["problem"] * 4]
    ends = ["the proxy answers 502", "begins with http:// or https://", "Invalid IPv6 URL", "range 0-65535"]
    for finding, end in zip(said[1:], ends, strict=True):
        assert finding.what.endswith(f"{end}.")
    (none,) = [finding async for finding in providers.probe(Config())]
    assert none.what == "No model has a base_url of its own: nobody was asked."


# -- Scale to zero -------------------------------------------------------------------------------------


def test_what_is_due_is_wanted_though_no_worker_runs(
    cli: Cli, redis_url: str, fleet_name: str, folder: Path
) -> None:
    """A sleep, a back-off and a lost lease: each is in the number that a scaler goes by, when it is due."""
    (folder / "naps.py").write_text(
        "from aios_dist import agent, llm, sleep\n\n@agent\nasync def naps(seconds: float) -> str:\n"
        "    await sleep(seconds)\n    return 'x'\n"
    )
    text = (folder / "aios.toml").read_text()
    (folder / "aios.toml").write_text(text.replace("modules = []", 'modules = ["naps"]'))
    cli("submit", "naps", "--input", '{"seconds": 1.5}')
    cli("submit", "naps", "--input", '{"seconds": 3600}')
    cli("submit", "greet", "--input", '"Ada"', "--id", "lost")
    cli("submit", "greet", "--input", '"Bo"', "--id", "later")

    async def leave() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url, lease=1.0, renew=0.3))
        first, second = [await journal.claim("llm", "gone@host:1:a") for _ in range(2)]
        assert first is not None
        assert second is not None
        await journal.release(second, "busy", 1.0, error=RuntimeError("busy"))
        await journal.close()

    asyncio.run(leave())

    def wanted() -> dict[str, Any]:
        return {
            lane["name"]: (lane["depth"], lane["wanted"]) for lane in cli("fleet", "--json").json["lanes"]
        }

    end = time.monotonic() + 20
    while (now := wanted()) != {"llm": (0, 2), "turns": (0, 1)}:
        assert time.monotonic() < end, now
        time.sleep(0.1)
    assert cli("lane", "list", "--json").json[0]["due"] == 2
