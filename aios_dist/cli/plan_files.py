"""From what people write (options, TOML, JSON) to jobs and plans.

A file holds agents, a plan, or both, in TOML or JSON::

    order = "fixed"                      # or "fifo"
    on_failure = "continue"              # or "stop"; what the order's own default is when left out
    id = "monday"                        # of the plan, may be left out

    [agents.greet]                       # as in aios.toml
    prompts = ["Greet {input}.", "Say this in French: {previous}"]

    [[jobs]]
    agent = "greet"                      # from this file, aios.toml, Python, or known to workers
    input = "Ada"
    id = "greet-ada"
    deadline = 3600                      # seconds from the submission
    budget = {tokens = 20000}            # or money = 0.5; on_budget = "fail" instead of "pause"

    [[jobs]]                             # a group: a plan in the plan
    order = "fifo"
    jobs = [{agent = "greet", input = "Bo"}, {prompts = ["A joke about {input}"], input = "cats"}]
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from aios_dist import modules
from aios_dist.agents import Agent, Budget, JobSpec, PromptsAgent, as_json
from aios_dist.config import Config, PromptsConfig
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.plans import Plan, fifo, fixed

DEEPEST = 32
"""Plans in plans."""


class BudgetEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``budget = {tokens = 20000}`` of a job."""

    tokens: int | None = None
    money: float | None = None
    on_budget: Literal["pause", "fail"] = "pause"


class JobEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job of a plan file: an agent by name, or its prompts right here."""

    agent: str | None = None
    input: Any = None
    id: str | None = None
    tenant: str = "default"
    prompts: list[str] | None = None
    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    deadline: float | None = None
    budget: BudgetEntry | None = None

    def definition(self) -> PromptsConfig | None:
        """The agent that is written down in the entry itself, if one is."""
        if self.prompts is None:
            return None
        return PromptsConfig(self.prompts, self.model, self.system, self.temperature, self.max_tokens)


class GroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan, or a plan in a plan."""

    order: str
    jobs: list[Any]
    on_failure: str | None = None


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file."""

    agents: dict[str, PromptsConfig] = {}
    order: str | None = None
    jobs: list[Any] | None = None
    on_failure: str | None = None
    id: str | None = None


class Agents:
    """Where the command line finds an agent: a file, ``aios.toml``, Python modules, or the workers.

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
            named = as_json(named, f"input of agent {name!r}")
            return JobSpec(agent=name, input=named, id=id, tenant=tenant)
        for taken in ("id", "tenant"):
            if taken in named:
                raise InvalidInput(
                    f"{taken!r} is the job's own; agent {name!r} cannot have an argument of that name."
                )
        return msgspec.structs.replace(known.job(**named), id=id, tenant=tenant)


def read_file(path: str) -> PlanFile:
    """Read a file of agents, of a plan, or of both.

    Raises:
        InvalidInput: one sentence that names the file, the place and what to write instead.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}.") from None
    except RecursionError:
        raise InvalidInput(f"{path} is nested too deeply.") from None
    except ValueError as exc:
        kind = "JSON" if path.endswith(".json") else "TOML"
        raise InvalidInput(f"{path} is not {kind}: {exc}.") from None
    file: PlanFile = _convert(data, PlanFile, path)
    if file.jobs is None and (file.order or file.on_failure or file.id):
        raise InvalidInput(f"{path} has no jobs = […] to go with order, on_failure or id.")
    if file.jobs is None and not file.agents:
        raise InvalidInput(f'{path} has neither a plan (order = "fifo", jobs = […]) nor [agents.NAME].')
    if file.jobs is not None and file.order is None:
        raise InvalidInput(
            f'{path} needs order = "fifo" (all at once) or order = "fixed" (one after another).'
        )
    for name, agent in file.agents.items():
        if not agent.prompts:
            raise InvalidInput(f"{path}: [agents.{name}] needs at least one prompt.")
    return file


def plan_of(file: PlanFile, agents: Agents, source: str) -> Plan:
    """The file's plan, checked.

    Raises:
        InvalidInput: see :func:`read_file`.
    """
    assert file.order is not None
    assert file.jobs is not None
    return _group(GroupEntry(order=file.order, jobs=file.jobs, on_failure=file.on_failure), agents, source, 1)


def _group(group: GroupEntry, agents: Agents, where: str, depth: int) -> Plan:
    makers = {"fifo": fifo, "fixed": fixed}
    if group.order not in makers:
        raise InvalidInput(f"{where}: order is 'fifo' or 'fixed', not {group.order!r}.")
    if depth > DEEPEST:
        raise InvalidInput(f"{where}: plans in plans go {DEEPEST} deep at the most.")
    members: list[JobSpec | Plan] = []
    for number, entry in enumerate(group.jobs):
        place = f"{where}: jobs[{number}]"
        if isinstance(entry, dict) and ("jobs" in entry or "order" in entry):
            members.append(_group(_convert(entry, GroupEntry, place), agents, place, depth + 1))
        else:
            members.append(_job(_convert(entry, JobEntry, place), agents, place))
    if not members:
        raise InvalidInput(f"{where}: a plan needs at least one job; so does each group of it.")
    failure: Any = {} if group.on_failure is None else {"on_failure": group.on_failure}
    try:
        return makers[group.order](members, **failure)
    except InvalidInput as exc:
        raise InvalidInput(f"{where}: {exc}") from None


def _job(entry: JobEntry, agents: Agents, where: str) -> JobSpec:
    try:
        budget = None if entry.budget is None else Budget(**msgspec.structs.asdict(entry.budget))
        return _spec(entry, agents).within(deadline=entry.deadline, budget=budget)
    except InvalidInput as exc:
        raise InvalidInput(f"{where}: {exc}") from None


def _spec(entry: JobEntry, agents: Agents) -> JobSpec:
    definition = entry.definition()
    if definition is not None:
        if not definition.prompts:
            raise InvalidInput("prompts = […] needs at least one.")
        named = PromptsAgent(entry.agent or "prompts", definition)
        return named.job(entry.input, id=entry.id, tenant=entry.tenant)
    if entry.agent is None:
        raise InvalidInput('it needs agent = "NAME", or prompts = ["…"].')
    if any(v is not None for v in (entry.model, entry.system, entry.temperature, entry.max_tokens)):
        raise InvalidInput("model, system, temperature and max_tokens go with prompts = […] only.")
    return agents.job(entry.agent, entry.input, id=entry.id, tenant=entry.tenant)


_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?")


def _convert(data: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as exc:
        unknown = _UNKNOWN.match(str(exc))
        if unknown is None:
            text = str(exc).replace("`$.", "`").replace(" - at `$`", "")
            raise InvalidInput(f"{where}: {text}.") from None
        field, at = unknown.groups()
        inner = BudgetEntry if kind is JobEntry else PromptsConfig
        allowed = (inner if at else kind).__struct_fields__
        near = difflib.get_close_matches(field, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(allowed)}."
        raise InvalidInput(
            f"{where}: unknown field {field!r}" + (f" in {at}" if at else "") + f"; {hint}"
        ) from None
