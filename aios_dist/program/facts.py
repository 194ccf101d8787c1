"""What an agent may know between its awaits, because its journal says it: time, chance, and what it looked up
for itself once, which is kept with the next step that it asks for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from aios_dist.errors import InvalidInput, ToolError, describe
from aios_dist.model.chance import Known, here
from aios_dist.model.given import as_json, named
from aios_dist.model.jobs import Outcome
from aios_dist.text.tracebacks import name_of

MOST_BYTES = 16 * 1024
"""Of all that is kept with one step, as JSON: it is read whenever the step's state is."""


def now() -> datetime:
    """The time in UTC, as the journal has it: when the last thing that the agent awaited came (before that:
    when the job was submitted). It stands still between awaits, and never goes back.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return datetime.fromtimestamp(_known("now").now, UTC)


def uuid() -> str:
    """A random UUID (version 4), as text: another one at each call, the same ones on each replay.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return str(UUID(bytes=_known("uuid").draw(), version=4))


def random() -> float:
    """A random number from 0 to below 1: another one at each call, the same ones on each replay.

    For more than that, make a generator of Python's with it: ``Random(uuid())``.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return (int.from_bytes(_known("random").draw()[:8], "big") >> 11) / (1 << 53)


def _known(what: str) -> Known:
    known = here.known
    if known is None:
        raise RuntimeError(
            f"{what}() is for agents that a fleet runs; elsewhere, in tools too, take Python's own."
        )
    return known


def once(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function here and now, and give the same at each replay: ``region = once(os.getenv, "REGION")``.

    No step and no wait, as a ``tool()`` is: for what is short and small, a setting or a local file. It runs
    where the agent runs, at first in the producer. What it gave is kept with the next step that the agent
    asks for; if that is never written, it may be called again.

    Args:
        function: plain, not ``async``.
        args, kwargs: anything: they are not kept.

    Returns:
        What it returned, as JSON gives it back.

    Raises:
        ToolError: it raised.
        InvalidInput: it is ``async``; or what it gave is not JSON, or too big.
        RuntimeError: not inside an agent that a fleet runs.
    """
    known = here.known
    if known is None:
        raise RuntimeError("once() is for agents that a fleet runs; elsewhere call the function.")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise InvalidInput("once() takes a plain function and its arguments, once(f, x); else: tool(f, x).")
    while known.then[len(known.given) : len(known.given) + 1] and _change(known.then[len(known.given)]):
        known.given.append(known.then[len(known.given)])  # of a changed() that the code has no longer
    place = len(known.given)
    if place < len(known.then):
        outcome = known.then[place]
    else:
        here.known = None  # what it gives, it gives once: chance that it drew would be missing on replay
        try:
            outcome = _call(function, args, kwargs)
        finally:
            here.known = known
        if sum(len(msgspec.json.encode(one)) for one in (*known.given, outcome)) > MOST_BYTES:
            said = f"once() keeps up to {MOST_BYTES:,} bytes between two steps; for more: await tool(f, x)."
            outcome = Outcome.failed(InvalidInput(said))  # kept in its place: a replay refuses it as well
    known.given.append(outcome)
    return copy.deepcopy(outcome.result())


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        said = ToolError(f"{name}: {describe(error)}", error=name_of(type(error)))
        return Outcome.failed(said)
    try:
        return Outcome(value=as_json(value, "value of once()"))
    except InvalidInput as error:
        return Outcome.failed(error)


CHANGED = "aios_dist.changed"
"""What stands among that which ``once()`` gave, for a change that a job runs with."""


def changed(name: str) -> bool:
    """Whether this job runs with a change of its agent: ``if changed("shorter-prompt"): …``.

    True in jobs that come here for the first time, and from then on in the same job, which keeps it with the
    next step that it asks for. False in those that had come by here before the agent had this line: they go
    on as they began. When no such job is open any more, the line and what was before it can go.

    Args:
        name: of the change, another one for each: letters, digits and ``. _ : -``.

    Raises:
        InvalidInput: not a name.
        RuntimeError: not inside an agent that a fleet runs.
    """
    known = _known("changed")
    name = named("Name of a change", name)
    if name not in known.changes:
        known.changes[name] = _runs_with(known, name)
    return known.changes[name]


def _runs_with(known: Known, name: str) -> bool:
    mine = Outcome(value={CHANGED: name})
    if not known.ahead:
        known.given.append(mine)
        return True
    before = []
    for outcome in known.then[len(known.given) :]:
        before.append(outcome)
        if outcome == mine:
            known.given += before  # with those that the code has no longer
            return True
        if not _change(outcome):
            break
    return False


def _change(outcome: Outcome) -> bool:
    return isinstance(outcome.value, dict) and outcome.value.keys() == {CHANGED}
