"""Promises of README and docs/ that no other file here is about; ``tests/promises.toml`` says which."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from aios_dist import AsyncFleet, AsyncJob, Fleet, Job, ToolError
from aios_dist.cli.flower import flower
from aios_dist.local.members import environment
from aios_dist.program.commands import Tool, tool
from aios_dist.program.waits import RESULT_TIMEOUT_S
from aios_dist.worker.tools import Tools
from tests.unit.test_worker_parts import work

ROOT = Path(__file__).parents[2]


def test_every_wait_of_a_producer_ends_by_itself() -> None:
    waits = [
        *(getattr(kind, name) for kind in (Job, AsyncJob) for name in ("result", "events")),
        *(kind.as_completed for kind in (Fleet, AsyncFleet)),
    ]
    assert {inspect.signature(wait).parameters["timeout"].default for wait in waits} == {RESULT_TIMEOUT_S}


def test_what_up_starts_has_our_environment_but_a_fleets_settings_and_flowers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ["AIOS_KEY_OF_MINE", "FLOWER_KEY", "AIOS_CONFIG", "AIOS_FLEET", "AIOS_REDIS_URL"]
    given.append("FLOWER_BASIC_AUTH")
    for name in given:
        monkeypatch.setenv(name, "theirs")
    env = environment(Path("here.toml"), {"FLOWER_KEY", None})
    assert {name for name in given if env.get(name) == "theirs"} == {"AIOS_KEY_OF_MINE", "FLOWER_KEY"}
    assert env["AIOS_CONFIG"] == "here.toml"


def test_flower_listens_on_this_machine_only_unless_it_is_told_otherwise() -> None:
    (address,) = [option for option in flower.params if option.name == "address"]
    assert address.default == "127.0.0.1"
    unit = (ROOT / "deploy/systemd/aios-flower.service").read_text("utf-8")
    assert "aios-dist flower --address 127.0.0.1 " in unit


@pytest.mark.parametrize(("size", "fits"), [(98, True), (99, False)])
async def test_a_tools_result_over_the_limit_is_a_tool_error_however_small_it_is_compressed(
    size: int, fits: bool
) -> None:
    tools = Tools(1, 5.0, result_limit=100)
    command = tool(lambda: "x" * size)
    assert isinstance(command, Tool)
    if fits:
        assert len(await tools.run(work(), command)) == size
        return
    with pytest.raises(ToolError, match=r"has 101 bytes, more than result_limit \(100\)"):
        await tools.run(work(), command)
