"""Workloads from files: a table of agents' tokens, or what ``aios-dist job export`` wrote."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from aios_dist.config.files import read_text
from aios_dist.errors import InvalidInput
from aios_dist.simulate.latency import Latency, cost, estimate
from aios_dist.simulate.work import SimulatedJob
from aios_dist.simulate.workloads import Workload, resampled

COLUMNS = ("agent", "step", "prompt_tokens", "output_tokens", "calls_tool")
"""Of a table of tokens: one row a call."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ExportedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a job that has ended, as ``aios-dist job export`` writes it: one JSON object a line.

    Attributes:
        step: which call of the job, from 0.
        after: how many calls of the job had ended when its agent asked for this one.
        submitted_at: of the job, seconds since the epoch; in a plan, when that admitted it.
        own_s: the agent's own time before the call: since the last of those ends, or since the submission.
        seconds: in the call; of several attempts the last.
        deadline_s: seconds from the submission.
        failed: the job did not end well.
    """

    job: str
    agent: str
    tenant: str = "default"
    step: Count
    after: Count
    submitted_at: Seconds
    own_s: Seconds
    seconds: Seconds
    prompt_tokens: Count = 0
    output_tokens: Count = 0
    priority: Count = 0
    deadline_s: Seconds | None = None
    expected_steps: Count | None = None
    failed: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    """A row of a table of tokens."""

    agent: str
    step: Count
    prompt_tokens: Count
    output_tokens: Count
    calls_tool: Count


R = TypeVar("R", ExportedStep, _Tokens)


def read(path: str, latency: Latency) -> Workload:
    """A workload from a file.

    Args:
        path: CSV with the columns :data:`COLUMNS`, or JSON lines of :class:`ExportedStep`.
        latency: makes seconds of tokens.

    Raises:
        InvalidInput: there is no such file, or it is no workload; the sentence names the line.
    """
    try:
        text = read_text(path).removeprefix("\ufeff")
    except InvalidInput:
        raise
    except OSError as exc:
        raise InvalidInput(f"Cannot read the workload {path!r}: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"Cannot read the workload {path!r}: it is no text in UTF-8.") from None
    except ValueError:
        raise InvalidInput(f"Cannot read the workload {path!r}: no file can have that name.") from None
    recorded = text.lstrip().startswith("{")
    whole = _recorded(path, text) if recorded else _from_tokens(path, text, latency)
    return Workload(resampled(whole), whole, recorded)


def _from_tokens(path: str, text: str, latency: Latency) -> tuple[SimulatedJob, ...]:
    """Each agent of the table is one job. All are runs of one program: were they judged each by its own past,
    a job that is drawn a second time would hold no surprise, and ``remaining`` would know what it cannot."""
    table = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise InvalidInput(
            f"The workload {path!r} lacks the columns {', '.join(missing)}: a CSV has {', '.join(COLUMNS)}; "
            "what `aios-dist job export` writes has one JSON object a line."
        )
    lines = ((table.line_num, {name: row[name] for name in COLUMNS}) for row in table)
    try:
        rows = [(row.agent, row) for row in _checked(path, lines, _Tokens)]
    except csv.Error as exc:
        raise InvalidInput(f"The workload {path!r}, line {table.line_num}, is no CSV: {exc}.") from None
    jobs = []
    for agent, steps in _by_job(path, rows).items():
        before = (False, *(bool(row.calls_tool) for row in steps[:-1]))
        jobs.append(
            SimulatedJob(
                agent,
                tuple(latency.seconds(row.prompt_tokens, row.output_tokens) for row in steps),
                gaps=tuple(latency.tool if tool else 0.0 for tool in before),
                agent=agent,
                program=Path(path).stem,
                costs=tuple(cost(row.prompt_tokens, row.output_tokens) for row in steps),
                estimates=tuple(estimate(row.prompt_tokens) for row in steps),
            )
        )
    return tuple(jobs)


def _recorded(path: str, text: str) -> tuple[SimulatedJob, ...]:
    """Jobs as they ran; the first arrives at 0."""
    lines = ((number, _json(path, number, line)) for number, line in enumerate(text.splitlines(), 1) if line)
    by_job = _by_job(path, [(row.job, row) for row in _checked(path, lines, ExportedStep)])
    first = min(steps[0].submitted_at for steps in by_job.values())
    jobs = []
    for name, steps in by_job.items():
        head, after = steps[0], [0]
        for number, row in enumerate(steps[1:], 1):  # a step that was retried later may say too many
            after.append(min(number, max(row.after, after[-1])))
        jobs.append(
            SimulatedJob(
                name,
                tuple(row.seconds for row in steps),
                gaps=tuple(row.own_s for row in steps),
                after=tuple(after),
                arrival=head.submitted_at - first,
                agent=head.agent,
                tenant=head.tenant,
                priority=head.priority,
                deadline=head.deadline_s,
                expected_steps=head.expected_steps,
                costs=tuple(cost(row.prompt_tokens, row.output_tokens) for row in steps),
                estimates=tuple(estimate(row.prompt_tokens) for row in steps),
                fails=head.failed,
            )
        )
    return tuple(jobs)


def _json(path: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"The workload {path!r}, line {number}, is not JSON: {exc}.") from None


def _checked(path: str, lines: Iterable[tuple[int, Any]], kind: type[R]) -> Iterable[R]:
    for number, line in lines:
        try:
            yield msgspec.convert(line, kind, strict=False)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"The workload {path!r}, line {number}: {exc}.") from None


def _by_job(path: str, rows: Iterable[tuple[str, R]]) -> Mapping[str, list[R]]:
    found: defaultdict[str, list[R]] = defaultdict(list)
    for job, row in rows:
        found[job].append(row)
    if not found:
        raise InvalidInput(f"The workload {path!r} is empty: it needs at least one step.")
    for job, steps in found.items():
        steps.sort(key=lambda row: row.step)
        if len({row.step for row in steps}) < len(steps):
            raise InvalidInput(f"The workload {path!r} has a step of {job!r} twice.")
    return found
