"""The command line on a real Redis, and once with everything real but the language model."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from aios_dist import agents
from aios_dist.cli import entry
from aios_dist.config import FleetConfig
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.local.owned_process import start_owned

AGENTS = """
from aios_dist import agent, llm, tool

def find(city: str) -> str:
    return f"the hotel of {city}"

@agent
async def trip(city: str) -> str:
    sights = await llm(f"SECRET sights of {city}?")
    hotel = await tool(find, city)
    return f"{sights.text} / {hotel}"

@agent
async def broken() -> None:
    raise RuntimeError("the agent broke")
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def folder(redis_url: str, fleet_name: str, tmp_path: Path) -> Path:
    """A folder with the configuration of this test's fleet."""
    write_config(tmp_path, redis_url, fleet_name, "http://127.0.0.1:1/v1")
    return tmp_path


def write_config(folder: Path, redis_url: str, fleet: str, base_url: str, modules: str = "[]") -> None:
    (folder / "aios.toml").write_text(
        f'[fleet]\nname = "{fleet}"\nredis_url = "{redis_url}"\nmodules = {modules}\n'
        f'[models.small]\nmodel = "fake"\nbase_url = "{base_url}"\n'
        '[agents.greet]\nprompts = ["Greet {input}.", "Louder: {previous}"]\n',
        encoding="utf-8",
    )


@pytest.fixture
def cli(
    folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run ``aios-dist`` in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("AIOS_CONFIG", str(folder / "aios.toml"))
    monkeypatch.setenv("AIOS_REDIS_URL", redis_url)  # also so that what --redis-url sets is undone
    # A process of its own would not know the agents that other tests have defined in this one.
    ours = {name: made for name, made in agents.registered().items() if not _of_a_test(made)}
    monkeypatch.setattr(agents, "_registry", ours)

    def run(*args: str) -> Done:
        try:
            code = entry.run(args)
        except SystemExit as exc:
            code = int(exc.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def _of_a_test(made: object) -> bool:
    return getattr(getattr(made, "function", None), "__module__", "").startswith("tests.")


def announce(redis_url: str, fleet_name: str, *, late: float = 0.0) -> None:
    """A worker of this host, as if it had renewed ``late`` seconds ago."""

    async def write() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        now = await journal.now() - late
        info = WorkerInfo(
            id="llm@test",
            host=socket.gethostname(),
            pid=os.getpid(),
            pool="llm",
            lanes=["llm"],
            slots=4,
            models=["small"],
            seen_at=now,
        )
        await journal.announce(info, {"small": "llm"})
        await journal.close()

    asyncio.run(write())


def finding(report: dict[str, Any], check: str) -> list[dict[str, Any]]:
    return [f for f in report["findings"] if f["check"] == check]


# -- submit and look -----------------------------------------------------------------------------------


def test_a_submitted_job_is_listed_shown_and_cancelled(cli: Callable[..., Done]) -> None:
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").out == "j1\n"
    (listed,) = cli("job", "list", "--json").json
    assert listed["id"] == "j1"
    assert (listed["state"], listed["agent"], listed["steps_total"], listed["steps_done"]) == (
        "running",
        "greet",
        1,
        0,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", listed["submitted_at"])
    assert listed["ended_at"] is None
    shown = cli("job", "show", "j1", "--json").json
    (step,) = shown["steps"]
    assert (step["state"], step["label"], step["lane"], step["worker"]) == ("ready", "small", "llm", None)
    assert [json.loads(line)["what"] for line in cli("job", "events", "j1", "--json").out.splitlines()] == [
        "submitted",
        "ready",
    ]
    assert cli("job", "cancel", "j1", "--json").json == [
        {"id": "j1", "cancelled": True, "state": "cancelled"}
    ]
    assert cli("job", "list", "--open", "--json").json == []
    ended = cli("job", "wait", "j1")
    assert (ended.code, ended.out) == (1, "")
    assert "cancelled" in ended.err


def test_the_same_id_is_the_same_job_and_other_input_is_refused(cli: Callable[..., Done]) -> None:
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").code == 0
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").code == 0
    refused = cli("submit", "greet", "--input", '"Bo"', "--id", "j1")
    assert refused.code == 2
    assert "taken by another job" in refused.err
    assert len(cli("job", "list", "--json").json) == 1


def test_prompts_are_shown_only_when_asked_for(cli: Callable[..., Done]) -> None:
    cli("submit", "--prompt", "SECRET {input}", "--input", '"word"', "--id", "j1")
    for args in (
        ["job", "show", "j1"],
        ["job", "show", "j1", "--json"],
        ["job", "list"],
        ["job", "events", "j1"],
    ):
        assert "SECRET" not in cli(*args).out
    assert "SECRET word" in cli("job", "show", "j1", "--prompts").out
    assert "SECRET word" in json.dumps(cli("job", "show", "j1", "--prompts", "--json").json)


def test_a_plan_is_submitted_whole_or_not_at_all(cli: Callable[..., Done], folder: Path) -> None:
    plan = {"order": "fixed", "id": "p", "jobs": [{"agent": "greet", "input": n} for n in ("a", "b")]}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert cli("submit", "--file", "plan.json").out.split() == ["p.0", "p.1"]
    states = {j["id"]: j["state"] for j in cli("job", "list", "--json").json}
    assert states == {"p.0": "running", "p.1": "waiting"}
    plan = {
        "order": "fixed",
        "jobs": [{"agent": "greet", "input": 1, "id": "x"}, {"agent": "nobody", "id": "y"}],
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    refused = cli("submit", "--file", "plan.json")
    assert refused.code == 2
    assert "No agent 'nobody'" in refused.err
    assert len(cli("job", "list", "--json").json) == 2


def test_a_wait_that_ends_too_early_exits_with_1_and_says_that_the_job_goes_on(
    cli: Callable[..., Done],
) -> None:
    done = cli("submit", "greet", "--input", '"Ada"', "--wait", "--timeout", "0.2", "--json")
    assert done.code == 1
    assert done.json["state"] == "running"
    assert "has not ended within 0.2 s" in done.err


@pytest.mark.parametrize("args", [["show"], ["wait"], ["events"], ["events", "-f"], ["cancel"]], ids=" ".join)
def test_an_unknown_job_is_one_sentence_and_exit_code_2(cli: Callable[..., Done], args: list[str]) -> None:
    done = cli("job", *args, "nope")
    assert (done.code, done.out) == (2, "")
    assert "There is no job 'nope'" in done.err


# -- fleet, health, doctor -----------------------------------------------------------------------------


def test_fleet_shows_depths_and_workers(cli: Callable[..., Done], redis_url: str, fleet_name: str) -> None:
    for name in ("Ada", "Bo"):
        cli("submit", "greet", "--input", json.dumps(name))
    announce(redis_url, fleet_name)
    seen = cli("fleet", "--json").json
    assert seen["jobs_open"] == 2
    assert [(w["pool"], w["slots"], w["in_flight"]) for w in seen["workers"]] == [("llm", 4, 0)]
    lanes = {lane["name"]: lane for lane in seen["lanes"]}
    assert lanes["llm"] == {"name": "llm", "depth": 2, "tickets": 2, "slots": 4, "workers": 1}
    assert lanes["turns"]["workers"] == 0
    assert seen["models"] == [{"name": "small", "lane": "llm"}]


def test_a_host_is_healthy_while_its_worker_renews(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    assert cli("healthcheck").code == 1
    announce(redis_url, fleet_name)
    assert cli("healthcheck") == (0, "", "")
    assert cli("healthcheck", "--pool", "turns").code == 1
    announce(redis_url, fleet_name, late=11.0)
    sick = cli("healthcheck")
    assert sick.code == 1
    assert "has not renewed for 11 s" in sick.err


def test_doctor_finds_lanes_without_a_worker_and_gives_the_fix(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"')
    sick = cli("doctor", "--json")
    assert sick.code == 1
    (lane,) = finding(sick.json, "lanes")
    assert lane["level"] == "problem"
    assert "1 step waits" in lane["what"]
    assert lane["fix"] == "Start one: aios-dist worker llm"
    announce(redis_url, fleet_name)
    well = cli("doctor", "--json")
    problems = [f["check"] for f in well.json["findings"] if f["level"] == "problem"]
    assert problems == ["append-only file"]  # the Redis of the tests has none
    for check in ("redis", "eviction", "clock", "rights", "models"):
        assert [f["level"] for f in finding(well.json, check)] == ["ok"], check


def test_doctor_says_which_rights_an_account_lacks(
    cli: Callable[..., Done], redis_url: str, redis_client: Any
) -> None:
    user = f"u{os.getpid()}"
    redis_client.execute_command(
        "ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", "-zpopmin", "-brpop"
    )
    try:
        done = cli("--redis-url", redis_url.replace("//", f"//{user}:pw@"), "doctor", "--json")
    finally:
        redis_client.execute_command("ACL", "DELUSER", user)
    (found,) = finding(done.json, "rights")
    assert found["level"] == "problem"
    assert "ZPOPMIN" in found["what"]
    assert "BRPOP" in found["what"]
    assert "pw" not in done.out


# -- everything real -----------------------------------------------------------------------------------


class Process:
    """``aios-dist`` as a process, up to the line that says that it is ready."""

    def __init__(self, folder: Path, *args: str, ready: str, **env: str) -> None:
        self.log = folder / f"{args[0]}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIOS_", "FLOWER_"))}
        clean["PYTHONPATH"] = str(Path(__file__).parents[2])
        with self.log.open("wb") as log:
            self.process = start_owned(
                [sys.executable, "-m", "aios_dist.cli", *args],
                cwd=folder,
                env={**clean, **env},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        out: IO[bytes] | None = self.process.stdout
        assert out is not None
        for line in out:
            if found := re.search(ready, line.decode()):
                self.ready = found
                return
        pytest.fail(f"{args} ended: {self.log.read_text()}")

    def stop(self, within_s: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=within_s)


@pytest.fixture
def real(redis_url: str, fleet_name: str, folder: Path) -> Iterator[Process]:
    """A fake LLM and a worker that serves every lane, as processes; gives the worker."""
    llm = Process(folder, "fake-llm", "--port", "0", ready=r"fake LLM on (\S+)")
    write_config(folder, redis_url, fleet_name, llm.ready[1], modules='["my_agents"]')
    (folder / "my_agents.py").write_text(AGENTS, encoding="utf-8")
    with (folder / "aios.toml").open("a", encoding="utf-8") as file:
        file.write('[pools.all]\nlanes = ["llm", "turns"]\nslots = 4\n')
    worker = Process(folder, "worker", "all", "--loglevel", "debug", ready="is ready: (.*)")
    try:
        yield worker
    finally:
        worker.process.kill()
        llm.stop()


def test_submit_wait_on_a_real_worker(real: Process, cli: Callable[..., Done], folder: Path) -> None:
    assert real.ready[1] == "lanes llm, turns; 4 slots; models small; agents broken, greet, trip"
    done = cli("submit", "trip", "--set", "city=Lima", "--id", "lima", "--wait", "--timeout", "30", "--json")
    assert (done.code, done.err) == (0, "")
    record = done.json
    assert (record["id"], record["state"], record["steps_done"]) == ("lima", "done", 2)
    assert record["result"].endswith(" / the hotel of Lima")
    assert record["output_tokens"] > 0

    assert cli("job", "wait", "lima").out == record["result"] + "\n"
    steps = cli("job", "show", "lima", "--json").json["steps"]
    assert [(s["kind"], s["label"], s["state"]) for s in steps] == [
        ("llm", "small", "done"),
        ("tool", "find", "done"),
    ]
    assert all(s["worker"].startswith("all@") and s["wait_s"] >= 0 and s["run_s"] >= 0 for s in steps)
    follow = cli("job", "events", "lima", "--follow", "--json").out.splitlines()
    assert json.loads(follow[-1])["what"] == "done"

    several = cli("job", "wait", "lima", "lima", "--json").json
    assert several["id"] == "lima"
    prompts = ["--prompt", "One word on {input}", "--prompt", "Another: {previous}"]
    assert cli("submit", *prompts, "--input", '"cats"', "--wait", "--timeout", "30").code == 0
    assert cli("healthcheck").code == 0

    failed = cli("submit", "broken", "--wait", "--timeout", "30", "--json")
    assert failed.code == 1
    assert failed.json["error"]["message"] == "the agent broke"
    assert failed.err.endswith("failed: RuntimeError: the agent broke\n")

    assert real.stop() == 0
    assert cli("fleet", "--json").json["workers"] == []
    assert "SECRET" not in real.log.read_text(encoding="utf-8")  # not even with --loglevel debug


def test_flower_ends_when_told_to_also_while_redis_is_away(cli: Callable[..., Done], folder: Path) -> None:
    env = {"FLOWER_BASIC_AUTH": "me:geheim", "AIOS_REDIS_URL": "redis://127.0.0.1:1/0"}
    flower = Process(folder, "flower", "--port", "0", ready=r"http://127\.0\.0\.1:(\d+)", **env)
    # It serves by now, and its threads that ask the workers are waiting for a Redis.
    urllib.request.urlopen(f"http://127.0.0.1:{flower.ready[1]}/healthcheck", timeout=10)
    assert flower.stop(within_s=4) == 0


def test_flower_wants_a_login_and_counts_the_waiting_steps_of_each_lane(
    cli: Callable[..., Done], folder: Path
) -> None:
    for number in range(3):
        cli("submit", "greet", "--input", str(number))
    login = {"FLOWER_BASIC_AUTH": "me:geheim"}
    flower = Process(folder, "flower", "--port", "0", ready=r"(http://127\.0\.0\.1:\d+)", **login)
    url = flower.ready[1]
    secret = base64.b64encode(b"me:geheim").decode()

    def get(path: str) -> str:
        request = urllib.request.Request(url + path, headers={"Authorization": f"Basic {secret}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url + "/broker", timeout=10)
        lengths = json.loads(get("/api/queues/length"))["active_queues"]
        assert {lane["name"]: lane["messages"] for lane in lengths} == {"llm": 3, "turns": 0}
        assert re.search(r'<tr id="llm">\s*<td>llm</td>\s*<td[^>]*>3</td>', get("/broker"))
        columns = re.findall(r'data-column="(\w+)"', get("/tasks"))
        assert ",".join(columns) == ("name,state,args,kwargs,result,runtime,worker,received,started,uuid")
    finally:
        assert flower.stop() == 0
