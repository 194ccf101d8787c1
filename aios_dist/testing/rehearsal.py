"""An agent run here and now, in a test: without Redis, workers or a provider, and replayed at every turn."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from aios_dist.errors import InvalidInput, ProgramChanged, StepError, ToolError, describe
from aios_dist.model.calls import LLMRequest, LLMResponse, SignalRequest, SleepRequest, Usage
from aios_dist.model.chance import Known
from aios_dist.model.given import as_json
from aios_dist.model.jobs import Kind, Outcome, Step
from aios_dist.model.specs import JobSpec
from aios_dist.program.commands import Tool, is_async, wants_a_loop
from aios_dist.program.replay import Replay
from aios_dist.text.tracebacks import name_of

Reply = str | LLMResponse | Callable[[LLMRequest], str | LLMResponse]
"""A model's answer, or what gives it for each call; it may raise an ``LLMError``."""

START = 1_800_000_000.0
"""When a rehearsal begins, seconds since the epoch; time passes in it by ``sleep()`` alone."""


def rehearse(job: JobSpec, reply: Reply = "yes", signals: Mapping[str, Sequence[Any]] | None = None) -> Any:
    """Run a job's agent to its end: ``assert rehearse(trip.job(city="Lima"), "Stay at home.") == …``.

    At every turn the agent is run again from its journal, as another worker would, and compared: one that
    does not repeat itself fails here. Calls and tools end in the order in which they were asked for; times
    are over, at once, when nothing else can go on. Tools are really run.

    Args:
        job: the agent with its input: ``agent.job(…)``.
        reply: what each call of a model is answered.
        signals: what comes for each name, in its order.

    Returns:
        The agent's result, as JSON gives it back.

    Raises:
        ProgramChanged: it does not repeat itself; the message names the line.
        InvalidInput: it waits for a signal that is not among ``signals``.
        Exception: whatever the agent raised.
    """
    return _Rehearsal(job, reply, signals or {}).run()


class _Rehearsal:
    def __init__(self, job: JobSpec, reply: Reply, signals: Mapping[str, Sequence[Any]]) -> None:
        if job.program is None:
            raise InvalidInput("rehearse() takes a job with its agent: agent.job(…).")
        self._program = job.program
        self._reply = reply
        self._signals = {name: deque(values) for name, values in signals.items()}
        self._now = START
        self._due: dict[int, float] = {}
        self._outcomes: list[tuple[int, Outcome]] = []
        self._live = self._begin()

    def run(self) -> Any:
        """To its end."""
        live = self._live
        while not live.finished:
            self._compare()
            number, outcome = self._next()
            self._outcomes.append((number, outcome))
            live.deliver(number, outcome)
        self._compare()
        if live.error is not None:
            raise live.error
        return live.result

    def _begin(self, steps: Sequence[Step] = ()) -> Replay:
        return Replay(self._program, steps, known=Known("rehearsal", START))

    def _compare(self) -> None:
        told = dict(self._outcomes)
        steps = [
            asked.written(
                number, asked.command.request if asked.command is not None else None, told.get(number)
            )
            for number, asked in enumerate(self._live.asked)
        ]
        other = self._begin(steps)
        other.follow(self._outcomes)
        other.check_complete()
        other.check_end(self._live)
        other.close()
        if isinstance(other.error, ProgramChanged):
            self._live.close()
            raise other.error

    def _next(self) -> tuple[int, Outcome]:
        """The outcome that comes next."""
        done = {number for number, _ in self._outcomes}
        waits = []
        for number, asked in enumerate(self._live.asked):
            if number in done or asked.command is None:
                continue
            request = asked.command.request
            if isinstance(request, SleepRequest):
                self._due.setdefault(number, self._now + request.seconds)
            elif isinstance(request, SignalRequest):
                if values := self._signals.get(request.name):
                    return number, self._at(Outcome(value=values.popleft()))
                waits.append(request.name)
            else:
                return number, self._at(self._outcome(asked.kind, asked.command))
        open_times = [(due, number) for number, due in self._due.items() if number not in done]
        if not open_times:
            self._live.close()
            raise InvalidInput(f"The agent waits for a signal that never comes: {', '.join(waits)}.")
        due, number = min(open_times)
        self._now = max(self._now, due)
        return number, self._at(Outcome())

    def _at(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, at=self._now)

    def _outcome(self, kind: Kind, command: Any) -> Outcome:
        if kind is Kind.LLM:
            try:
                return Outcome(response=self._answer(command.request))
            except StepError as error:
                return Outcome.failed(error)
        try:
            value = as_json(_called(command), "tool's result")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as a worker takes it
            text = f"{command.request.name}: {describe(error)}"
            return Outcome.failed(ToolError(text, error=name_of(type(error))))
        if said := command.kept():
            return Outcome.failed(ToolError(f"{command.request.name}: {said}", error=name_of(InvalidInput)))
        return Outcome(value=value)

    def _answer(self, request: LLMRequest) -> LLMResponse:
        reply = self._reply(request) if callable(self._reply) else self._reply
        if isinstance(reply, LLMResponse):
            return reply
        return LLMResponse(text=reply, usage=Usage(1, 1, 1), model=request.model or "", provider="rehearsal")


def _called(command: Tool) -> Any:
    """As a worker calls it: in a thread, where no loop runs but for what is to be awaited."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_value, command).result()


def _value(command: Tool) -> Any:
    call = command.call
    if not is_async(call):
        try:
            value = call()
        except RuntimeError as error:
            if not wants_a_loop(call, error):
                raise
        else:
            if not inspect.isawaitable(value):
                return value
            call = functools.partial(_itself, value)
    context = command.context
    assert context is not None, "it was asked for"

    async def whole() -> Any:
        return await call()

    return context.copy().run(asyncio.run, whole())


def _itself(value: Any) -> Any:
    return value
