"""``aios-dist job show``: one job, step by step. Texts of prompts and answers only when asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aios_dist.cli.output import (
    amount,
    clock,
    console,
    count_of,
    error_line,
    iso,
    job_record,
    plain,
    print_json,
    print_table,
    resume_command,
    short,
    took,
)
from aios_dist.cli.session import on_journal
from aios_dist.errors import class_of

if TYPE_CHECKING:
    from aios_dist.journal import Event, History, Journal, Need
    from aios_dist.model.jobs import Outcome, Step


TOLD_BYTES = 100_000
"""From where on it is told how much a job holds."""
COLUMNS = (">STEP", "KIND", "MODEL", "STATE", ">TRIES", ">IN", ">OUT", ">WAITED", ">RAN", "LANE", "WORKER")


@click.command()
@click.argument("id")
@click.option("--prompts", is_flag=True, help="Also the texts: input, prompts, answers, result.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(id: str, prompts: bool, as_json: bool) -> None:
    """One job: its steps with state, model, tokens, times, worker."""

    async def look(journal: Journal) -> tuple[History, list[Event], float, list[str]]:
        history = await journal.load(id)
        lanes = sorted({step.lane for step in history.steps if step.state == "ready"} | {"turns"})
        needs, registry = await journal.needs(lanes), await journal.registry()
        lacking = _lacking(history, needs, registry.agents_now(journal.config.lease))
        return history, await journal.events(id), registry.now, lacking

    history, events, now, lacking = on_journal(look)
    tries = _failed_tries(events)
    outcome = _outcome(history)
    if as_json:
        record = job_record(history.view)
        record["priority"] = history.view.priority
        record["error"] = outcome.error if outcome is not None else None
        record["waits_for"] = lacking
        if prompts:
            record["input"] = history.record.input
            record["defaults"] = history.record.defaults
            record["result"] = outcome.value if outcome is not None else None
        record["steps"] = [
            _step_record(step, now, prompts, tries.get(step.number, [])) for step in history.steps
        ]
        record["forgotten"] = [_step_record(step, now, prompts, []) for step in history.forgotten]
        print_json(record)
        return
    _print_head(history, outcome)
    names = worker_names({step.worker for step in (*history.steps, *history.forgotten)})
    print()
    print_table(
        COLUMNS,
        (_row(step, now, names) for step in history.steps),
        empty="No steps yet.",
    )
    if history.forgotten:
        print("\nForgotten, when it was resumed from an earlier step; what it cost has counted:")
        print_table(COLUMNS, (_row(step, now, names) for step in history.forgotten), empty="")
    from aios_dist.journal.views import needed

    for need in lacking:
        console().print(plain(f"\nIt waits for a worker with {needed(need)}: none that runs has it."))
    for step in history.steps:
        for no in step.rejected:
            refused = error_line(f"{no.type}: {no.message}")
            console().print(f"\nBefore step {step.number} it was refused: {refused}")
        if step.outcome is None and not history.view.state.ended and tries.get(step.number):
            failed = tries[step.number]
            text = f"failed tries so far: {len(failed)}, the last: {error_line(failed[-1])}."
            console().print(f"\nStep {step.number} is tried again; {text}")
        if left_out := _left_out(step):
            response = step.outcome.response if step.outcome is not None else None
            who = response.provider if response is not None else ""
            text = f"was asked without {', '.join(left_out)}: {who or 'the provider'} has no word for that."
            console().print(plain(f"\nStep {step.number} {text}"))
        if step.outcome is not None and step.outcome.error is not None:
            error = step.outcome.error
            failed_by = error_line(f"{class_of(error)}: {error['message']}")
            console().print(f"\nStep {step.number} failed: {failed_by}")
            frames = _traceback(step.outcome)
            if frames not in _traceback(outcome):  # it stands above
                console().print(plain(frames))
    if prompts:
        _print_texts(history, outcome)


def _outcome(history: History) -> Outcome | None:
    from aios_dist.journal.reading import outcome_of

    return outcome_of(history.view.id, history.result) if history.result else None


def _lacking(history: History, needs: Sequence[Need], agents: set[str]) -> list[str]:
    """What the job waits for, or will, that no worker which runs has."""
    if history.view.state.ended:
        return []
    wanted = {f"model/{s.label}" for s in history.steps if s.state == "ready" and s.kind == "llm"}
    wanted.add(f"code/{history.record.agent}@{history.view.code}")
    lacking = {need.need for need in needs if need.need in wanted and not need.served}
    if history.view.in_code and history.record.agent not in agents:
        lacking.discard(f"code/{history.record.agent}@{history.view.code}")
        lacking.add(f"agent/{history.record.agent}")
    return sorted(lacking)


def _failed_tries(events: Sequence[Event]) -> dict[int, list[str]]:
    """The errors of each step's calls that failed and were tried again."""
    failed: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event.step is not None and event.what == "retry":
            failed[event.step].append(event.detail)
    return failed


def _print_head(history: History, outcome: Outcome | None) -> None:
    view, out = history.view, console()
    duration = short(took(view.submitted_at, view.ended_at))
    state = "parked" if view.parked else view.state.value
    out.print(f"Job {view.id}: {state}" + (f" after {duration}" if duration else ""))
    out.print(
        f"Agent {view.agent}, tenant {view.tenant}"
        + (f", plan {view.plan}" if view.plan else "")
        + (f", priority {view.priority}" if view.priority else "")
    )
    out.print(
        f"Submitted {clock(view.submitted_at)}" + (f", ended {clock(view.ended_at)}" if view.ended_at else "")
    )
    usage = view.usage
    out.print(
        f"{count_of(usage.calls, 'call')}, {usage.prompt_tokens} prompt + {usage.output_tokens} output tokens"
        + (f" (≈ {view.estimated} of them estimated: no usage came)" if view.estimated else "")
        + (f", {amount(view.money)} in money" if view.money else "")
    )
    if view.held_bytes >= TOLD_BYTES:
        out.print(f"Holds {view.held_bytes / 1e6:.1f} MB of requests and answers")
    if view.state == "paused":
        out.print(plain(f"{state.capitalize()}: {view.why}. Go on: {resume_command(view)}"))
    if outcome is not None and outcome.error is not None:
        out.print(error_line(f"Failed: {class_of(outcome.error)}: {outcome.error['message']}"))
        if frames := _traceback(outcome):
            out.print(plain(frames))


def _left_out(step: Step) -> list[str]:
    """Options that the provider had no word for."""
    response = step.outcome.response if step.outcome is not None else None
    return list(response.left_out) if response is not None else []


def _traceback(outcome: Outcome | None) -> str:
    """Where in the user's code a failure was raised; "" where nothing is known."""
    return str(outcome.error.get("traceback", "")) if outcome is not None and outcome.error else ""


def _times(step: Step, now: float) -> tuple[float | None, float | None]:
    """Seconds that the step waited and ran, up to now where that goes on; the last attempt only."""
    if not step.ready_at:
        return None, None
    waiting = step.state.value == "ready"
    waited = took(step.ready_at, now if waiting else step.started_at or step.ended_at or now)
    ran = took(step.started_at, step.ended_at or now) if step.started_at and not waiting else None
    return waited, ran


def worker_names(workers: set[str]) -> dict[str, str]:
    """What each worker is called here: its node, if only one process of that name is among them, else all."""
    nodes = {worker: worker.partition(":")[0] for worker in workers}
    alone = Counter(nodes.values())
    return {worker: node if alone[node] == 1 else worker for worker, node in nodes.items()}


def _row(step: Step, now: float, names: Mapping[str, str]) -> tuple[object, ...]:
    waited, ran = _times(step, now)
    usage = step.outcome.usage if step.outcome is not None else None
    return (
        step.number,
        step.kind.value,
        step.label,
        step.state.value,
        step.attempt,
        usage.prompt_tokens if usage else None,
        usage.output_tokens if usage else None,
        short(waited),
        short(ran),
        step.lane,
        names[step.worker],
    )


def _step_record(step: Step, now: float, prompts: bool, failed: Sequence[str]) -> dict[str, Any]:
    waited, ran = _times(step, now)
    outcome = step.outcome
    record: dict[str, Any] = {
        "number": step.number,
        "kind": step.kind.value,
        "label": step.label,
        "lane": step.lane,
        "state": step.state.value,
        "attempt": step.attempt,
        "failed_tries": list(failed),
        "worker": step.worker or None,
        "prompt_tokens": outcome.usage.prompt_tokens if outcome else 0,
        "output_tokens": outcome.usage.output_tokens if outcome else 0,
        "ready_at": iso(step.ready_at),
        "started_at": iso(step.started_at),
        "ended_at": iso(step.ended_at),
        "wait_s": waited,
        "run_s": ran,
        "error": outcome.error if outcome else None,
        "left_out": _left_out(step),
    }
    if prompts:
        record["request"] = msgspec.to_builtins(step.request)
        record["response"] = msgspec.to_builtins(outcome.response or outcome.value) if outcome else None
    return record


def _print_texts(history: History, outcome: Outcome | None) -> None:
    out = console()

    def text(title: str, value: object) -> None:
        body = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
        out.print(f"\n— {title}", style="bold")
        out.print(plain(body))

    text("input", history.record.input)
    if history.record.defaults:
        text("defaults of what was not given", history.record.defaults)
    for step in history.steps:
        if step.request is not None:
            asked = getattr(step.request, "messages", None)
            text(
                f"step {step.number}: asked",
                asked if asked is not None else msgspec.to_builtins(step.request),
            )
        if step.outcome is not None and step.outcome.ok:
            response = step.outcome.response
            text(
                f"step {step.number}: answered", response.text if response is not None else step.outcome.value
            )
    if outcome is not None and outcome.ok:
        text("result", outcome.value)
