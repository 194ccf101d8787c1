"""The command line with everything real but the language model."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from aios_dist.local.owned_process import start_owned
from tests.redis import command_line
from tests.redis.command_line import Done, write_config

cli, folder = command_line.cli, command_line.folder

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

    def stop(self, within_s: float = 20, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
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
    shown = cli("job", "show", failed.json["id"]).out
    assert "Failed: RuntimeError: the agent broke\n  File " in shown
    assert ', in broken\n    raise RuntimeError("the agent broke")\n' in shown

    assert real.stop(by=signal.SIGHUP) == 0  # its terminal is closed: as SIGTERM
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
