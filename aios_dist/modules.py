"""Imports the modules that define a fleet's agents, on workers and on the command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

from aios_dist.agents import Agent, PromptsAgent, find, register
from aios_dist.config import Config
from aios_dist.errors import ConfigError


def load(config: Config) -> None:
    """Import every module of ``[fleet] modules``, also from the current folder.

    Raises:
        ConfigError: one cannot be imported.
    """
    with contextlib.suppress(OSError):  # the current folder was removed
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
    for name in config.fleet.modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as exc:
            raise ConfigError(
                f"The module {name!r} of [fleet] modules cannot be imported: {type(exc).__name__}: {exc}."
            ) from exc
    for name, prompts in config.agents.items():
        register(PromptsAgent(name, prompts))


def agent(config: Config, name: str) -> Agent | PromptsAgent | None:
    """The agent of that name, from the code of this process or from ``aios.toml``; None elsewhere."""
    prompts = config.agents.get(name)
    return PromptsAgent(name, prompts) if prompts is not None else find(name)
