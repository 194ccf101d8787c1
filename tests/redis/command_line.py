"""``aios-dist`` run in this process, on a fleet of the test's own: fixtures, and what a worker would do.

A test module takes the fixtures over by name: ``cli, folder = command_line.cli, command_line.folder``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aios_dist.cli import entry
from aios_dist.config import FleetConfig
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.program import agents


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


def announce(redis_url: str, fleet_name: str, *, late: float = 0.0, **says: Any) -> None:
    """A worker of this host, as if it had renewed ``late`` seconds ago; what it ``says`` besides."""

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
            **says,
        )
        await journal.announce(info, {"small": "llm"})
        await journal.close()

    asyncio.run(write())
