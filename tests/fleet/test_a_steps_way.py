"""A step's way through the code is as docs/how-it-runs.md tells it: followed in a worker, call by call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import aios_dist
from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from tests.fundamentals.agents import trip

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ROOT = Path(aios_dist.__file__).parent
PAGE = ROOT.parent / "docs" / "how-it-runs.md"
MOST_FILES = 13
"""So many may one have to open to follow a step."""

FOLLOWER = """
import json, os, sys, threading
root, out, passed, done = {root!r}, {out!r}, [], [0]

def call(frame, event, _):
    file = frame.f_code.co_filename
    if event != "call" or not file.startswith(root):
        return
    name = frame.f_code.co_qualname
    if file.endswith("worker/app.py") and name.endswith("step"):
        passed.clear()
    passed.append((file[len(root):], name))
    if name == "Runner._until_free":
        with open(f"{{out}}/{{done[0]}}", "w") as written:
            json.dump(passed, written)
        done[0] += 1

if any("worker" in word for word in sys.orig_argv):
    threading.setprofile(call)
    sys.setprofile(call)
"""


def told() -> list[tuple[str, str, bool]]:
    """The stations of the page's table: file, the end of a function's name, and whether meanwhile."""
    table = PAGE.read_text(encoding="utf-8").split("<!-- way:")[1].split("<!-- end -->")[0]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ") and "`" in row]
    return [(cells[2].split("`")[1], cells[3].split("`")[1], "meanwhile" in cells[1]) for cells in rows]


def test_a_steps_way_is_as_the_page_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FOLLOWER.format(root=f"{ROOT}/", out=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT.parent}")
    config = Config(
        fleet=FleetConfig(name="way", modules=["tests.fundamentals.agents"], check_replays=False),
        models={"small": ModelConfig()},
        pools={"all": PoolConfig(lanes=["llm", "turns"], slots=1)},
    )
    with (
        LocalFleet(config, [WorkerSpec("one", "all")], fake_llm="0.01", cwd=ROOT.parent) as local,
        Fleet(local.config) as fleet,
    ):
        fleet.submit(trip, city="Lima", calls=3).result(timeout=60)
        local.stop_workers(local.workers)
    passed = json.loads((tmp_path / "1").read_text())  # the second: the program is here, and goes on
    stations, at = told(), 0
    for file, name, meanwhile in stations:
        found = [n for n, (f, q) in enumerate(passed) if f == file and q.split(".<locals>.")[-1] == name]
        assert found, f"{file} {name} is not passed"
        if meanwhile:
            continue
        later = [n for n in found if n >= at]
        assert later, f"{file} {name} is passed before what stands above it"
        at = later[0]
    assert len({file for file, *_ in stations}) <= MOST_FILES
    assert len(stations) > 9
