"""Where the command line finds an agent by its name: a file, ``aios.toml``, Python, or the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from aios_dist.config import Config, PromptsConfig
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.model.given import given_json
from aios_dist.model.specs import JobSpec
from aios_dist.program import imports as modules
from aios_dist.program.agents import Agent, PromptsAgent


class Agents:
    """Agents by name; see the module.

    Args:
        config: the configuration; its ``[fleet] modules`` are imported.
        written: agents of the file that was given.
    """

    def __init__(self, config: Config, written: Mapping[str, PromptsConfig] | None = None) -> None:
        self._config = config
        self._written = dict(written or {})
        self.absent: str | None = None
        """A module of agents that this machine does not have: the workers may."""
        try:
            modules.load(config)
        except ConfigError as exc:
            if not isinstance(exc.__cause__, ModuleNotFoundError):
                raise
            self.absent = str(exc)

    def job(self, name: str, value: Any, *, id: str | None = None, tenant: str = "default") -> JobSpec:
        """An agent, by name, with its input.

        Raises:
            InvalidInput: the input does not fit.
        """
        definition = self._written.get(name)
        known = modules.agent(self._config, name) if definition is None else PromptsAgent(name, definition)
        if isinstance(known, PromptsAgent):
            return known.job(value, id=id, tenant=tenant)
        named = {} if value is None else value
        if not isinstance(named, dict):
            raise InvalidInput(
                f'Agent {name!r} takes its arguments by name: {{"city": "Lima"}}, or --set city=Lima.'
            )
        if not isinstance(known, Agent):
            named = given_json(named, f"input of agent {name!r}")
            return JobSpec(agent=name, input=named, id=id, tenant=tenant)
        for taken in ("id", "tenant"):
            if taken in named:
                raise InvalidInput(
                    f"{taken!r} is the job's own; agent {name!r} cannot have an argument of that name."
                )
        return msgspec.structs.replace(known.job(**named), id=id, tenant=tenant)
