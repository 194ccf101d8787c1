"""Tells Flower which step each ticket became.

A ticket is published for one step and claims another (late binding), so the row that Flower made from the
ticket gets its name, arguments and model when the step is known: with ``task-started``, which we send in
Celery's place. Never a prompt, never a key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker.control import Panel
from celery.worker.request import Request

from aios_dist.journal import Claim
from aios_dist.text.masking import hide_in

FLUSH_EVERY_S = 0.2
"""Task events go out in batches: one publication per event would cost a tenth of a worker's time."""

BUFFER = 4096
"""Events between two flushes at the most; beyond, the one who sends them flushes."""


class Dispatcher(bootsteps.StartStopStep):
    """Keeps hold of the consumer: its event dispatcher is made anew with each connection.

    Sent through it, our event cannot overtake the worker's own ``task-received``.
    """

    requires = ("celery.worker.consumer.events:Events",)
    consumer: Any = None

    def start(self, consumer: Any) -> None:
        """The worker has a connection."""
        type(self).consumer = consumer
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None:
            dispatcher.buffer_limit = BUFFER
            dispatcher.on_send_buffered = None

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Celery ends this timer with the connection and calls us again with the next one."""
        hub.call_repeatedly(FLUSH_EVERY_S, flush)


def flush() -> None:
    """Send the events that are held back."""
    dispatcher = getattr(Dispatcher.consumer, "event_dispatcher", None)
    if dispatcher is not None and dispatcher.enabled:
        dispatcher.flush()


class StepRequest(Request):
    """Celery's record of a ticket, which leaves ``task-started`` to :func:`started`."""

    def cancel(self, *_: Any, **__: Any) -> None:
        """Celery's cold shutdown would tell Flower of another try; the runtime gives the step back."""

    def send_event(self, type: str, **fields: Any) -> None:
        """All events but that one. A spare ticket never starts."""
        if "exception" in fields:  # of any class, so with any text
            fields = hide_in(fields)
        if type != "task-started":
            super().send_event(type, **fields)


def started(ticket: str, claim: Claim) -> None:
    """The ticket has become a step: give its row the step's name and arguments."""
    dispatcher = getattr(Dispatcher.consumer, "event_dispatcher", None)
    if dispatcher is None or not dispatcher.enabled:
        return
    step = "turn" if claim.is_turn else claim.step
    dispatcher.send(
        "task-started",
        uuid=ticket,
        name=claim.record.agent,
        args=f"job {claim.job}, step {step}",
        kwargs=f"{claim.kind.value} {claim.label}"
        + (f", attempt {claim.attempt}" if claim.attempt > 1 else ""),
        retries=claim.attempt - 1,
    )


def mask_replies() -> None:
    """Mask what a worker answers to remote control (``celery inspect``, Flower's pages); twice is as once.

    Celery's own ``stats`` gives the broker's options and alternative URLs as they are, passwords included.
    """
    for name, command in list(Panel.data.items()):
        if not getattr(command, "masks", False):
            Panel.data[name] = _masking(command)


def _masking(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def answer(*args: Any, **kwargs: Any) -> Any:
        return hide_in(command(*args, **kwargs))

    answer.masks = True  # type: ignore[attr-defined]
    return answer
