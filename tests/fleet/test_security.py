"""Secrets stay where they belong, prompts out of logs and Flower, and Flower behind its login.

One fleet of real processes: a worker, Flower, a Redis account with a password of odd characters, and a
provider that repeats the key in its errors, in every form and cut at every bound.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import quote, quote_plus

import pytest

from aios_dist import Fleet, JobFailed, prompts
from aios_dist.broker.app import make_app
from aios_dist.cli.flower_app import is_local
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.errors import BadReply
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.leaking import leaks
from tests.fleet.reading import wait_for

if TYPE_CHECKING:
    import redis

    from aios_dist.local.redis_server import EmbeddedRedis

SECRET = "the prompt that nobody may read"
ROOT = Path(__file__).parents[2]
ODD = ("whole", "coded", "base64", "cut", "garbage")


def planted(signs: str = "") -> str:
    """A secret of its own for each run, with these signs in it."""
    # No hexadecimal digits: eight of them stand in some digest by chance, once in some hundred runs.
    parts = [secrets.token_urlsafe(9), *signs, secrets.token_urlsafe(14)]
    return "".join(parts[:1] + random.sample(parts[1:], len(parts) - 1))


class Planted(NamedTuple):
    """What must be seen nowhere; ``url`` has the passwords in it, percent-encoded."""

    key: str
    wrong_key: str
    password: str
    wrong_password: str
    sentinel_password: str
    login: str
    url: str

    def in_sight(self, text: bytes) -> list[tuple[str, bytes]]:
        """Those that show, in whatever form, eight characters in a row, and what stands around them."""
        return [
            (name, text[max(0, at - 200) : at + 50])
            for name, secret in self._asdict().items()
            if name != "url"
            for form in forms(secret)
            for run in runs(form)
            if (at := text.find(run)) >= 0
        ]


def forms(secret: str) -> set[bytes]:
    data = secret.encode()
    found = {
        data,
        quote(data, safe="").encode(),
        quote_plus(data).encode(),
        json.dumps(secret)[1:-1].encode(),
    }
    for before in (b"", b"u", b"u:"):
        found.add(base64.b64encode(before + data)[4:-4])
    return found


def runs(form: bytes) -> list[bytes]:
    return [form[n : n + 8] for n in range(len(form) - 7)]


class Echo(BaseHTTPRequestHandler):
    """Answers each model in its own way, with the key that it was sent; counts the calls."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        self.asked[model] += 1
        key = self.headers["Authorization"].removeprefix("Bearer ")
        text = {
            "whole": f"Incorrect API key provided: {key}. You can find yours elsewhere.",
            "coded": f"at /v1?key={quote(key, safe='')} and {quote_plus(key)} and {json.dumps(key)}",
            "base64": f"Basic {base64.b64encode(f'u:{key}'.encode()).decode()}",
            "cut": "x" * 440 + f" {key} " + key[:12] + "…",
        }.get(model, f'{{"x": <<< {key} >>>')
        body = text if model == "garbage" else json.dumps({"error": {"message": text, "code": "x"}})
        if model == "odd":
            body = '{"choices":[{"message":{"content":"a\\ud800b"}}],"usage":{"prompt_tokens":1e400}}'
        self.send_response({"garbage": 200, "odd": 200, "cut": 400}.get(model, 401))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture(scope="module")
def hidden(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> Iterator[Planted]:
    """An account of the run's Redis with a password of every sign that URLs have."""
    password = planted("@/:;#&?%+ =ü")
    address = redis_server.url.removeprefix("redis://")
    redis_client.execute_command("ACL", "SETUSER", "planted", "on", f">{password}", "~*", "&*", "+@all")
    yield Planted(
        key="sk-" + planted("-_+/="),
        wrong_key="sk-" + planted("%&"),
        password=password,
        wrong_password=planted("@/"),
        sentinel_password=planted("@&"),
        login=planted(),
        url=f"redis://planted:{quote(password, safe='')}@{address}",
    )
    redis_client.execute_command("ACL", "DELUSER", "planted")


@pytest.fixture(scope="module")
def failing(
    hidden: Planted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Commands that cannot work, side by side with the fleet: what do they say?"""
    address = hidden.url.rpartition("@")[2].partition("/")[0]
    wrong = f"redis://planted:{quote(hidden.wrong_password, safe='')}@{address}/0"
    bare = f"redis://planted:{hidden.wrong_password}@{address}/0"
    watched = f"sentinel://planted:{quote(hidden.password, safe='')}@{address}/0?master=m"
    watched += f"&sentinel_password={quote(hidden.sentinel_password, safe='')}"
    config = tmp_path_factory.mktemp("failing") / "aios.toml"
    config.write_text('[models.m]\nbase_url = "http://127.0.0.1:1"\n[pools.all]\nlanes = ["llm", "turns"]\n')
    started = {
        "worker, wrong password": start(config, [["worker", "all"]], AIOS_REDIS_URL=wrong),
        "worker, Sentinel": start(config, [["worker", "all", "--loglevel", "debug"]], AIOS_REDIS_URL=watched),
        "commands": start(
            config,
            [
                ["--redis-url", url, *command]
                for url in (wrong, bare, watched)
                for command in (["doctor"], ["doctor", "--json"], ["fleet"], ["submit", "--prompt", "x"])
            ],
        ),
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def guarded(fleets: Any, hidden: Planted, echo: str) -> Iterator[tuple[LocalFleet, FakeLLM]]:
    with pytest.MonkeyPatch.context() as patch, FakeLLM(api_key=hidden.key) as llm:
        for name, value in (
            ("THE_KEY", hidden.key),
            ("WRONG_KEY", hidden.wrong_key),
            ("PLANTED_URL", hidden.url),
        ):
            patch.setenv(name, value)
        config = Config(
            fleet=FleetConfig(
                name=fleets.new_name(),
                redis_url=hidden.url,
                modules=["tests.fleet.agents", "tests.fleet.leaking"],
            ),
            models={
                "good": ModelConfig(base_url=llm.url, api_key_env="THE_KEY"),
                "bad": ModelConfig(base_url=llm.url, api_key_env="WRONG_KEY"),
                **{name: ModelConfig(base_url=echo, api_key_env="THE_KEY") for name in (*ODD, "odd")},
            },
            pools={"all": PoolConfig(lanes=["llm", "turns"], slots=4)},
        )
        workers = [WorkerSpec("machine-1", "all")]
        machine = LocalFleet(config, workers, embedded_redis=False, flower=0, cwd=ROOT)
        machine.flower_login = f"aios:{hidden.login}"
        with machine:
            yield machine, llm


def test_no_key_no_password_and_no_prompt_is_where_it_must_not_be(
    failing: dict[str, subprocess.Popen[bytes]],
    guarded: tuple[LocalFleet, FakeLLM],
    hidden: Planted,
    redis_client: redis.Redis,
) -> None:
    machine, llm = guarded
    told = []
    with Fleet(machine.config) as fleet:
        fleet.submit(caller, calls=2, model="good", id="planted-good").result(timeout=30)
        fleet.submit(prompts("secret", [SECRET], model="good").job()).result(timeout=30)
        jobs = [fleet.submit(caller, calls=1, model=name, id=f"planted-{name}") for name in ("bad", *ODD)]
        jobs += [fleet.submit(leaks, how=how, id=f"planted-{how}") for how in ("tool", "agent")]
        for job in jobs:
            with pytest.raises(JobFailed) as failed:
                job.result(timeout=30)
            told.append(f"{failed.value} {failed.value.error!r} {getattr(failed.value.error, 'detail', '')}")
    assert {call.status for call in llm.calls} == {200, 401}

    places = {
        "Redis": _everything_in(redis_client),
        "the errors": "\n".join(told).encode(),
        "Flower": _flower(machine),
        "remote control": _remote_control(machine.config),
        "the command line": _command_line(machine, [job.id for job in jobs]),
    }
    places |= {name: process.communicate(timeout=30)[0] for name, process in failing.items()}
    places["the logs"] = b"\n".join(member.log.read_bytes() for member in machine.members)
    assert b"planted-good" in places["Redis"]
    assert b"planted-good" in places["Flower"]
    assert b"Incorrect API key provided: ***" in places["the command line"]
    assert b'"raw":"{\\\\"x\\\\": <<< ***' in places["Redis"]
    assert b"refuses the account" in places["worker, wrong password"]
    for place, text in places.items():
        assert not hidden.in_sight(text), f"in {place}"
    for place in ("the logs", "Flower"):
        assert SECRET.encode() not in places[place], f"a prompt is in {place}"


def test_an_answer_is_paid_for_once_whether_it_is_odd_or_cannot_be_read(
    guarded: tuple[LocalFleet, FakeLLM],
) -> None:
    machine, _ = guarded
    Echo.asked.clear()
    with Fleet(machine.config) as fleet:
        assert fleet.submit(caller, calls=1, model="odd").result(timeout=30) == "a\ufffdb"
        with pytest.raises(JobFailed) as failed:
            fleet.submit(caller, calls=1, model="garbage").result(timeout=30)
    assert isinstance(failed.value.error, BadReply)
    assert failed.value.error.detail["raw"].startswith('{"x": <<< ***')
    assert Echo.asked == {"odd": 1, "garbage": 1}


def _command_line(machine: LocalFleet, jobs: list[str]) -> bytes:
    """What commands that look print, one after another in one process."""
    calls = [
        ["doctor"],
        ["fleet"],
        ["fleet", "--json"],
        ["job", "wait", *jobs],
        ["dead", "list"],
        ["model", "list"],
    ]
    for id in jobs:
        calls += [["job", "show", id, "--steps"], ["job", "wait", id], ["job", "wait", id, "--json"]]
        calls += [["job", "events", id], ["dead", "show", id]]
    return start(machine.config_path, calls).communicate(timeout=60)[0]


def start(config: Path, calls: list[list[str]], **env: str) -> subprocess.Popen[bytes]:
    """A process that runs these commands one after another; its output is stdout and stderr."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from aios_dist.cli.entry import run\nfor call in {calls!r}: run(call)"],
        env={**os.environ, "AIOS_CONFIG": str(config), **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _remote_control(config: Config) -> bytes:
    """What a worker tells whoever asks."""
    app = make_app(config)
    inspect = app.control.inspect(timeout=1.0)
    told = [inspect._request(what) for what in ("stats", "conf", "report", "active_queues")]
    app.close()
    assert all(told)
    return json.dumps(told).encode()


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
        b"none": lambda _: "",  # its time to live was over between two looks
    }
    parts = []
    for key in client.scan_iter(count=1000):
        parts += [key, repr(reads[client.type(key)](key)).encode()]
    return b"\n".join(parts)


def _flower(machine: LocalFleet) -> bytes:
    worker = machine.registered("machine-1").id.partition(":")[0]
    # Flower hears of tasks a moment later.
    wait_for(lambda: json.loads(ask(machine, "/api/tasks?limit=1000")[1]))
    pages = []
    for path in (
        "/api/tasks?limit=1000",
        "/tasks",
        "/workers",
        "/broker",
        f"/worker/{worker}",
        "/api/workers?refresh=1",
        "/metrics",
    ):
        status, page = ask(machine, path)
        assert status == 200, path
        pages.append(page)
    assert json.loads(pages[0]), "Flower knows no task"
    return b"\n".join(pages)


# Flower ----------------------------------------------------------------------------------------------


def ask(
    machine: LocalFleet, path: str, headers: Mapping[str, str] = {}, *, post: bool = False, login: bool = True
) -> tuple[int, bytes]:
    """Flower's status and answer; ``post`` sends an empty form."""
    coded = base64.b64encode(machine.flower_login.encode()).decode()
    asked = urllib.request.Request(
        str(machine.flower_url) + path,
        data=b"" if post else None,
        headers={**({"Authorization": f"Basic {coded}"} if login else {}), **headers},
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()


OPEN_PATHS = {"/healthcheck": 200, "/static/css/flower.css": 200, "/login": 404, "/logout": 200}
"""What Flower answers to those without a login: whether it lives, and its style sheet."""


def test_flower_answers_nothing_without_its_login_but_that_it_lives(
    guarded: tuple[LocalFleet, FakeLLM],
) -> None:
    from flower.urls import handlers

    machine, _ = guarded
    patterns = {h.regex.pattern if hasattr(h, "regex") else h[0] for h in handlers}
    paths = {p.rstrip("$").replace("/?", "").replace("(.+)", "x").replace("(.*)", "x") for p in patterns}
    answers = {path: ask(machine, path, login=False)[0] for path in {*paths, *OPEN_PATHS} if path != ".*"}
    posts = {path: ask(machine, path, login=False, post=True)[0] for path in paths if path.startswith("/api")}
    opened = {path for path, status in answers.items() if status not in (401, 404, 405)}
    assert opened <= set(OPEN_PATHS), answers
    assert set(posts.values()) <= {401, 405}
    assert ask(machine, "/healthcheck", login=False) == (200, b"OK")
    assert ask(machine, "/metrics", login=False)[0] == 401
    assert b"flower_worker_online" in ask(machine, "/metrics")[1]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Referer": "http://elsewhere.example/page"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://HOST"}, 403),
        ({"Origin": "http://HOST"}, 200),
        ({"Referer": "http://HOST/tasks"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({}, 200),
    ],
)
def test_flower_does_what_its_own_pages_and_programs_ask_and_no_other_site(
    guarded: tuple[LocalFleet, FakeLLM], headers: dict[str, str], status: int
) -> None:
    machine, _ = guarded
    host = str(machine.flower_url).removeprefix("http://")
    sent = {name: value.replace("HOST", host) for name, value in headers.items()}
    worker = machine.registered("machine-1").id.partition(":")[0]
    wait_for(lambda: worker in json.loads(ask(machine, "/api/workers?refresh=1")[1]))
    answer, text = ask(machine, f"/api/worker/queue/add-consumer/{worker}?queue=llm", sent, post=True)
    assert answer == status, text


@pytest.mark.parametrize("login", ["nobody:p\u00e4ss", "\u00e9", "\U0001f600:x"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_flower_takes_a_login_beyond_ascii_for_none(
    guarded: tuple[LocalFleet, FakeLLM], login: str, coding: str
) -> None:
    sent = {"Authorization": "Basic " + base64.b64encode(login.encode(coding)).decode()}
    for path in ("/workers", "/metrics", "/api/tasks"):
        assert ask(guarded[0], path, sent, login=False)[0] == 401, path


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5555", "localhost", "LOCALHOST:1", "[::1]:5555", "flower.localhost"]
)
def test_a_name_of_this_machine_is_one(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example:5555", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1"]
)
def test_a_name_that_a_site_may_have_is_none(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("button", "instead"),
    [
        ("revoke/TICKET?terminate=true", "aios-dist job cancel ID"),
        ("abort/TICKET", "serves job planted-button."),
        ("revoke/TICKET", "serves job planted-button."),
        ("revoke/none-such", "aios-dist job cancel ID"),
        ("timeout/aios.step?workername=w&soft=1", "tool_timeout"),
        ("rate-limit/aios.step?workername=w&ratelimit=1", "aios-dist model set NAME"),
        ("apply/aios.step", "aios-dist submit"),
        ("async-apply/aios.step", "aios-dist submit"),
        ("send-task/aios.step", "aios-dist submit"),
    ],
)
def test_a_button_of_flowers_that_has_no_effect_says_what_has(
    guarded: tuple[LocalFleet, FakeLLM], button: str, instead: str
) -> None:
    machine, _ = guarded
    with Fleet(machine.config) as fleet:
        fleet.submit(caller, calls=1, model="good", id="planted-button").result(timeout=30)

    def ticket() -> str:
        rows = json.loads(ask(machine, "/api/tasks?limit=1000")[1])
        return next((id for id, row in rows.items() if "planted-button," in (row["args"] or "")), "")

    wait_for(ticket)
    status, said = ask(machine, f"/api/task/{button.replace('TICKET', ticket())}", post=True)
    assert (status, instead in said.decode()) == (403, True), said


def test_a_button_of_flowers_that_has_an_effect_is_done(guarded: tuple[LocalFleet, FakeLLM]) -> None:
    machine, _ = guarded
    info = machine.registered("machine-1")
    worker = info.id.partition(":")[0]
    wait_for(lambda: worker in json.loads(ask(machine, "/api/workers?refresh=1")[1]))
    for press, slots in (("grow", info.slots + 2), ("shrink", info.slots)):
        assert ask(machine, f"/api/worker/pool/{press}/{worker}?n=2", post=True)[0] == 200
        wait_for(lambda slots=slots: machine.registered("machine-1").slots == slots)  # type: ignore[misc]
    refused = ask(machine, f"/api/worker/queue/add-consumer/{worker}?queue=gpu", post=True)
    assert (refused[0], b"`lanes` of [pools.all]" in refused[1]) == (403, True)


ODD_EVENTS: list[dict[str, Any]] = [
    {"type": "worker-heartbeat", "active": "x"},
    {"type": "worker-heartbeat", "freq": "often"},
    {"type": "worker-heartbeat", "loadavg": ["high"]},
    {"type": "worker-online", "timestamp": "now"},
    {"type": "worker-online", "timestamp": 1e300},
    {"type": "worker-online", "utcoffset": "x"},
    {"type": "worker-online", "hostname": 5},
    {"type": "worker-online", "clock": "x"},
    {"type": "task-received", "uuid": "odd-1", "name": 5},
    {"type": "task-received", "uuid": ["odd-2"], "name": "n"},
    {"type": "task-received", "name": "n"},
    {"type": "task-succeeded", "uuid": "odd-3", "runtime": "long", "result": "r"},
    {"type": "task-started", "uuid": "odd-4", "args": {"a": 1}},
    {"type": "task-received", "uuid": "odd-5", "eta": 5},
    {"type": 5},
    {},
]


def test_events_that_are_none_break_none_of_flowers_pages(guarded: tuple[LocalFleet, FakeLLM]) -> None:
    machine, _ = guarded
    app = make_app(machine.config)
    with app.events.default_dispatcher(hostname="odd@host") as events:
        base = {"hostname": "odd@host", "timestamp": 1.0, "pid": 1, "clock": 1, "utcoffset": 0}
        for event in ODD_EVENTS:
            events.producer.publish(
                {**base, **event}, routing_key="worker.odd", exchange=events.exchange.name, serializer="json"
            )
        for number, worker in enumerate(("x", None, 5, {"a": 1}), 1):
            fields = {"worker": worker, "state": [], "children": "x", "received": "never", "client": 5}
            events.send("task-received", uuid=f"sound-{number}", name="n", **fields)
        events.send("task-received", uuid="sound-0", name="n")
    app.close()
    for _ in range(200):
        if ask(machine, "/api/task/info/sound-0")[0] == 200:
            break
        threading.Event().wait(0.05)
    query = "draw=1&start=0&length=10&search%5Bvalue%5D=&order%5B0%5D%5Bcolumn%5D=0&order%5B0%5D%5Bdir%5D=asc"
    for column in ("name", "received", "runtime", "worker"):
        asked = f"/tasks/datatable?{query}&columns%5B0%5D%5Bdata%5D={column}"
        assert ask(machine, asked)[0] == 200
    for path in ("/workers", "/tasks", "/workers?json=1", "/api/tasks", "/metrics", "/task/sound-1"):
        assert ask(machine, path)[0] == 200, path
    assert b"odd-" not in ask(machine, "/api/tasks?limit=1000")[1]
