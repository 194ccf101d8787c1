"""``aios-dist submit``: an agent by name, prompts right here, or a plan from a file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from aios_dist.cli.options import (
    budget_of,
    budget_options,
    on_budget_option,
    setting_option,
    setting_options,
)
from aios_dist.cli.output import job_record, print_json
from aios_dist.cli.plan import PlanFile, plan_of, read_file
from aios_dist.cli.session import on_fleet
from aios_dist.config import Config, PromptsConfig, load
from aios_dist.config.files import read_text
from aios_dist.errors import ConfigError, InvalidInput, UnknownName
from aios_dist.model.given import given_json
from aios_dist.model.plans import Plan
from aios_dist.model.specs import JobSpec
from aios_dist.program import imports as modules
from aios_dist.program.agents import Agent, PromptsAgent, prompts

if TYPE_CHECKING:
    from aios_dist.producer.fleet import AsyncFleet


@click.command(
    epilog="A value of --set is JSON where it can be (n=3, on=true), else text. --input @FILE reads a file, "
    "--input - standard input. Braces in prompts: {input}, {input[key]}, {previous}, {steps[0]}."
)
@click.argument("agent", required=False)
@click.option("--input", "input_", metavar="JSON", help="The agent's input: JSON, @FILE, or - for stdin.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="One argument of the agent.")
@click.option("--prompt", "texts", metavar="TEXT", multiple=True, help="A prompt; several are asked in turn.")
@setting_options(PromptsConfig, "model", "system", "temperature", "max_tokens", when="With --prompt")
@click.option(
    "--file", "-f", "path", metavar="FILE", help="Agents or a plan, TOML or JSON; see docs/agents.md."
)
@click.option("--id", help="The job's (or the plan's) id; the same id twice is the same job.")
@click.option("--tenant", default="default", show_default=True, help="On whose behalf it runs.")
@setting_option(JobSpec, "deadline")
@budget_options
@on_budget_option
@setting_options(JobSpec, "priority", "expected_steps")
@click.option("--wait", is_flag=True, help="Wait, and print the result; exit 1 unless it ended well.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=3600.0, show_default=True, help="With --wait: seconds."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def submit(
    agent: str | None,
    input_: str | None,
    settings: tuple[str, ...],
    texts: tuple[str, ...],
    path: str | None,
    id: str | None,
    tenant: str,
    deadline: float | None,
    budget_tokens: int | None,
    budget_money: float | None,
    on_budget: Literal["pause", "fail"] | None,
    priority: int | None,
    expected_steps: int | None,
    wait: bool,
    timeout: float,
    as_json: bool,
    **options: Any,
) -> None:
    """AGENT by its name, a list of --prompt, or --file; prints the id of each job.

    \b
    aios-dist submit trip --set city=Lima --wait
    aios-dist submit --prompt "A joke about {input}" --prompt "Explain: {previous}" --input '"cats"' --wait
    aios-dist submit --file plan.toml
    """
    config = load()
    given = {name: value for name, value in options.items() if value is not None}
    if texts and path:
        raise InvalidInput("Give --prompt or --file, not both.")
    if agent is not None and agent.endswith((".toml", ".json")):
        raise InvalidInput(f"{agent!r} looks like a file; a plan is given as --file {shlex.quote(agent)}.")
    if given and not texts:
        raise InvalidInput(
            f"--{next(iter(given)).replace('_', '-')} goes with --prompt; agents name it themselves."
        )
    bounds: dict[str, Any] = {
        "deadline": deadline,
        "budget": budget_of(budget_tokens, budget_money, on_budget),
        "priority": priority,
        "expected_steps": expected_steps,
    }
    value = _input(input_, settings)
    file = read_file(path) if path else PlanFile()
    what: JobSpec | Plan
    absent = None
    if texts:
        what = prompts(agent or "prompts", texts, **given).job(value, id=id, tenant=tenant)
    else:
        agents = Agents(config, file.agents)
        absent = agents.absent
        if file.jobs is not None:
            bound = any(value is not None for value in bounds.values())
            if agent or value is not None or tenant != "default" or bound:
                raise InvalidInput(
                    f"{path!r} is a plan: its jobs name their agents, inputs, tenants, deadlines, budgets, "
                    "priorities and expected_steps themselves."
                )
            what = plan_of(file, agents, str(path))
            id = file.id if id is None else id
        else:
            what = agents.job(_only(agent, file, path), value, id=id, tenant=tenant)

    if isinstance(what, JobSpec):
        what = what.within(**bounds)

    async def work(fleet: AsyncFleet) -> None:
        try:
            ids, plan = await _send(fleet, what, id)
        except UnknownName as exc:
            if absent is None:
                raise
            raise ConfigError(f"{absent} And: {exc}") from None
        if wait:
            from aios_dist.cli.waiting import wait_and_print

            if not as_json and sys.stderr.isatty():
                print(f"Submitted {plan or ids[0]}.", file=sys.stderr)
            await wait_and_print(fleet, ids, timeout, as_json=as_json, plan=plan)
        elif as_json:
            records = [job_record(view) for view in await fleet.journal.views(ids) if view is not None]
            print_json(records[0] if plan is None else {"plan": plan, "jobs": records})
        else:
            print("\n".join(ids))

    on_fleet(work, config)


def _only(agent: str | None, file: PlanFile, path: str | None) -> str:
    if agent is not None:
        if file.agents and agent not in file.agents:
            raise InvalidInput(f"{path!r} has no agent {agent!r}; it has {', '.join(sorted(file.agents))}.")
        return agent
    if len(file.agents) == 1:
        return next(iter(file.agents))
    if file.agents:
        raise InvalidInput(f"{path!r} has several agents; name one: {', '.join(sorted(file.agents))}.")
    raise InvalidInput(
        "Say what to submit: an agent's name, --prompt TEXT, or --file PLAN. See aios-dist submit --help."
    )


async def _send(fleet: AsyncFleet, what: JobSpec | Plan, id: str | None) -> tuple[list[str], str | None]:
    if isinstance(what, Plan):
        plan = await fleet.submit_plan(what, id=id)
        return [job.id for job in plan], plan.id
    return [(await fleet.submit(what)).id], None


def _input(text: str | None, settings: tuple[str, ...]) -> Any:
    if text is not None and settings:
        raise InvalidInput("Give --input or --set, not both.")
    if text is not None:
        source, file = "--input", None
        if text == "-":
            source, file = "standard input", sys.stdin.buffer
        elif text.startswith("@"):
            file = text[1:]
            source = repr(file)
        if file is not None:
            try:
                text = read_text(file, source)
            except InvalidInput:
                raise
            except OSError as exc:
                raise InvalidInput(f"{source} cannot be read: {exc.strerror}.") from None
            except ValueError as exc:
                raise InvalidInput(f"{source} cannot be read: {exc}.") from None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as exc:
            hint = " Text is quoted twice: --input '\"Lima\"'." if source == "--input" else ""
            raise InvalidInput(f"{source} is not JSON: {exc}.{hint}") from None
    named: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--set takes KEY=VALUE, not {setting!r}.")
        if key in named:
            raise InvalidInput(f"--set {key} is given twice.")
        try:
            named[key] = json.loads(value)
        except (ValueError, RecursionError):
            named[key] = value
    return named or None


class Agents:
    """Where an agent is found by its name: in a file, ``aios.toml``, Python, or on the workers.

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
