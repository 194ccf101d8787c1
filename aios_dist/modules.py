"""Imports the modules that define a fleet's agents, on workers and on the command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

from aios_dist.agents import Agent, PromptsAgent, find, place_of, register, two_of
from aios_dist.config import Config
from aios_dist.errors import ConfigError, InvalidInput


def load(config: Config) -> None:
    """Import every module of ``[fleet] modules``, also from the current folder.

    Raises:
        ConfigError: one cannot be imported, or two agents have one name.
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
        try:
            register(PromptsAgent(name, prompts), place=_place(name))
        except InvalidInput as exc:
            raise ConfigError(str(exc)) from None


def agent(config: Config, name: str) -> Agent | PromptsAgent | None:
    """The agent of that name, from the code of this process or from ``aios.toml``; None elsewhere.

    Raises:
        InvalidInput: it is in both.
    """
    known, prompts = find(name), config.agents.get(name)
    if prompts is None:
        return known
    check_one(config, name)
    return PromptsAgent(name, prompts)


def check_one(config: Config, name: str) -> None:
    """Raises InvalidInput: an agent of this name is in the code of this process, and one in ``aios.toml``."""
    known = find(name)
    if name in config.agents and isinstance(known, Agent):
        raise InvalidInput(two_of(name, place_of(known), _place(name)))


def _place(name: str) -> str:
    return f"[agents.{name}] of aios.toml"
