"""Fleets without workers, and programs that are run for what they do at their end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig

ROOT = Path(__file__).parents[2]
HEAD = """
import asyncio, os, sys, time
from aios_dist import AsyncFleet, Fleet, agent, llm
from aios_dist.config import Config, FleetConfig, ModelConfig
from tests.producers.agents import ask, echo
config = Config(fleet=FleetConfig(name={name!r}, redis_url={url!r}), models={{"small": ModelConfig()}})
"""


@pytest.fixture
def config(redis_url: str, fleet_name: str) -> Config:
    return Config(fleet=FleetConfig(name=fleet_name, redis_url=redis_url), models={"small": ModelConfig()})


@pytest.fixture
def fleet(config: Config) -> Iterator[Fleet]:
    with Fleet(config) as opened:
        yield opened


Scripts = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def scripts(redis_url: str, fleet_name: str) -> Scripts:
    """Runs Python programs side by side; of each its exit code and all that it wrote, its errors first (in
    one pipe a report of asyncio's can stand in the middle of a line that a child writes)."""

    def run(*bodies: str, first: str = "") -> list[tuple[int, str]]:
        head = first + HEAD.format(name=fleet_name, url=redis_url)
        made = [
            subprocess.Popen(
                [sys.executable, "-c", head + body],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for body in bodies
        ]
        try:
            written = ["".join(reversed(program.communicate(timeout=100))) for program in made]
        finally:
            for program in made:
                program.kill()
                program.wait()
        return [(program.returncode, text) for program, text in zip(made, written, strict=True)]

    return run
