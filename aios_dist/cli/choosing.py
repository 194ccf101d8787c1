"""Which jobs a command is about: ids, or all of a state, an agent, a tenant, a time, a plan; asked first."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aios_dist.cli.entry import say
from aios_dist.cli.session import on_journal
from aios_dist.errors import AiosError, FleetUnavailable, InvalidInput
from aios_dist.model.jobs import JobState

if TYPE_CHECKING:
    from aios_dist.journal import Journal, Wanted
    from aios_dist.producer.fleet import AsyncFleet
    from aios_dist.producer.handles import AsyncJob

PARKED = "parked"
STATES = (*(state.value for state in JobState), PARKED)

AT_ONCE = 16
"""Jobs that a verb is asked for side by side."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_OPTIONS = (
    click.option(
        "--state",
        "states",
        type=click.Choice(STATES),
        multiple=True,
        help="Jobs in this state (repeatable).",
    ),
    click.option("--agent", metavar="NAME", help="Jobs of this agent."),
    click.option("--tenant", metavar="NAME", help="Jobs of this tenant."),
    click.option(
        "--since",
        metavar="TIME",
        help="Submitted since then: 90s, 30m, 2h, 7d ago, or 2026-01-31T12:00.",
    ),
    click.option("--plan", metavar="ID", help="Jobs of this plan."),
)


class Choice:
    """What the options say.

    Raises:
        InvalidInput: ``since`` is no time.
    """

    def __init__(
        self,
        states: Sequence[str] = (),
        agent: str | None = None,
        tenant: str | None = None,
        since: str | None = None,
        plan: str | None = None,
    ) -> None:
        self.states = tuple(dict.fromkeys(states))
        self.agent, self.tenant, self.plan = agent, tenant, plan
        self.since = since
        self._ago, self._at = _time(since) if since is not None else (None, None)

    def __bool__(self) -> bool:
        return bool(self.states) or any(
            v is not None for v in (self.agent, self.tenant, self.since, self.plan)
        )

    def __str__(self) -> str:
        """For people: ``state parked, agent 'trip'``."""
        said = [f"state {' or '.join(self.states)}"] if self.states else []
        named = {"agent": self.agent, "tenant": self.tenant, "plan": self.plan}
        said += [f"{what} {name!r}" for what, name in named.items() if name is not None]
        said += [f"since {self.since}"] if self.since is not None else []
        return ", ".join(said)

    async def wanted(self, journal: Journal, ended: bool | None = None) -> Wanted:
        """The same for the journal; ``ended``: only those that have, or have not."""
        from aios_dist.journal import Wanted

        since = self._at
        if self._ago is not None:
            since = await journal.now() - self._ago
        return Wanted(self.states, self.agent, self.tenant, since, self.plan, ended)


def _time(text: str) -> tuple[float | None, float | None]:
    """Seconds ago, or seconds since the epoch."""
    if found := _SPAN.fullmatch(text):
        return float(found[1]) * _SECONDS[found[2]], None
    try:
        at = datetime.fromisoformat(text)
        return None, at.astimezone(UTC).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(
            f"--since {text!r} is no time: so long ago (90s, 30m, 2h, 7d), or a date (2026-01-31T12:00)."
        ) from None


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--state``, ``--agent``, ``--tenant``, ``--since``, ``--plan``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def bulk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ids, or the options that choose jobs, and ``--yes``."""
    command = click.option("--yes", is_flag=True, help="Do not ask whether all that were chosen are meant.")(
        command
    )
    command = choice_options(command)
    return click.argument("ids", metavar="[ID]...", nargs=-1)(command)


def chosen(
    ids: Sequence[str],
    choice: Choice,
    *,
    may: Sequence[str],
    ask: str,
    yes: bool,
) -> list[str]:
    """The jobs that a command is about.

    Args:
        ids: those that are named; all others are asked about first.
        choice: what the options say.
        may: the states in which its verb can be done.
        ask: what it does, begins the question.
        yes: nothing is asked.

    Raises:
        InvalidInput: none is named or chosen, both are, the states are none for it, or nobody can be asked.
        click.Abort: it is not wanted.
    """
    if ids and choice:
        raise InvalidInput("Name jobs by their ids or choose them by options, not both.")
    if ids:
        return list(dict.fromkeys(ids))
    if not choice:
        raise InvalidInput(
            "Name jobs by their ids, or choose some: --state, --agent, --tenant, --since, --plan."
        )
    if odd := [state for state in choice.states if state not in may]:
        raise InvalidInput(f"{ask} jobs of state {' or '.join(may)}, not {odd[0]}.")

    async def find(journal: Journal) -> list[str]:
        wanted = await choice.wanted(journal)
        if not wanted.states:
            wanted = msgspec.structs.replace(wanted, states=tuple(may))
        return [view.id for view in await journal.find_jobs(wanted)]

    found = on_journal(find)
    count = f"{len(found):,} job{'' if len(found) == 1 else 's'}"
    if not found:
        say(f"No jobs ({choice}).")
    elif not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(f"{ask} {count} ({choice}): say --yes where that is meant.")
        click.confirm(f"{ask} {count} ({choice})?", abort=True, err=True)  # no loop runs: Ctrl-C ends it
    return found


async def each(
    fleet: AsyncFleet, ids: Sequence[str], verb: Callable[[AsyncJob], Awaitable[bool]], done: str, one: bool
) -> list[dict[str, Any]]:
    """A verb over several jobs, side by side: a record for each, in their order.

    Args:
        one: each of the jobs was named: what is wrong with one is raised; else it stands in its record.
    """
    room = asyncio.Semaphore(1 if one else AT_ONCE)

    async def ask(id: str) -> dict[str, Any]:
        async with room:
            job, error = fleet.job(id), None
            try:
                worked = await verb(job)
                state = (await job.status()).value
            except FleetUnavailable:
                raise
            except AiosError as exc:
                if one:
                    raise
                worked, state, error = False, "", str(exc)
            return {"id": id, done: worked, "state": state, **({"error": error} if error else {})}

    records: list[dict[str, Any]] = []
    for page in _pages(ids, 1 if one else 100):
        records += await asyncio.gather(*map(ask, page))
    return records


def _pages(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))
