"""Imports the modules that define a fleet's agents, on workers and on the command line."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from aios_dist.config import Config
from aios_dist.config.reading import stranger_here
from aios_dist.errors import ConfigError, InvalidInput, describe
from aios_dist.program.agents import Agent, PromptsAgent, find, place_of, register, two_of


def load(config: Config) -> None:
    """Import every module of ``[fleet] modules``, also from the current folder.

    Raises:
        ConfigError: one cannot be imported, whatever it raises; or two agents have one name.
        KeyboardInterrupt: Ctrl-C was pressed meanwhile.
    """
    whose = _look_here() if config.names_code else ""  # else a folder of anybody's came before packages
    for name in config.fleet.modules:
        with importing(f"The module {name!r} of [fleet] modules", whose):
            importlib.import_module(name)
    for name, prompts in config.agents.items():
        try:
            register(PromptsAgent(name, prompts), place=_place(name))
        except InvalidInput as exc:
            raise ConfigError(str(exc)) from None


def _look_here() -> str:
    """Modules may lie in the current folder from here on; or why they may not."""
    with contextlib.suppress(OSError):  # the current folder was removed
        here = str(Path.cwd())
        if here not in sys.path:
            if whose := stranger_here():
                return f" (the current folder was not looked in: it {whose})"
            sys.path.insert(0, here)
    return ""


@contextlib.contextmanager
def importing(what: str, but: str = "") -> Iterator[None]:
    """Around the import of users' code, which may raise anything.

    Raises:
        ConfigError: it did; ``what`` begins the sentence, ``but`` ends it where there is no such module.
        KeyboardInterrupt: Ctrl-C was pressed meanwhile.
    """
    with _noting_ctrl_c() as pressed:
        try:
            yield
        except BaseException as exc:
            if pressed and isinstance(exc, KeyboardInterrupt):
                raise
            more = but if isinstance(exc, ModuleNotFoundError) else ""
            raise ConfigError(f"{what} cannot be imported: {describe(exc)}{more}.") from exc


@contextlib.contextmanager
def _noting_ctrl_c() -> Iterator[list[int]]:
    """Whether a KeyboardInterrupt is the user's, or a module has raised it by itself."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        assert callable(before)
        before(number, frame)

    try:
        if callable(before):
            signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: no signal comes here
        before = None
    try:
        yield pressed
    finally:
        # A module may have put a handler of its own there: that one stays.
        if callable(before) and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


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
