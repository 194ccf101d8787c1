"""Sends Flower, and whoever else listens to Celery's events, what :mod:`aios_dist.worker.rows` has to say.

Celery's own events of tasks are switched off: it knows tickets only, and a ticket is no step (late binding),
may be a spare one, and may come twice. Its events of workers, and remote control, are as ever.
"""

from __future__ import annotations

import functools
import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.control import Panel
from celery.worker.request import Request
from celery.worker.state import SOFTWARE_INFO

from aios_dist.broker.tickets import arguments
from aios_dist.journal import Claim
from aios_dist.text.masking import hide_in

FLUSH_EVERY_S = 0.2
"""Task events go out in batches: one publication per event would cost a tenth of a worker's time."""

MOST_UNSENT = 50_000
"""Events that are kept while there is no connection; beyond, the oldest go."""

MOST_TOGETHER = 250
"""Events in one message: with the longest texts they are less than what is taken for one (LONGEST_NEWS)."""

_unsent: deque[tuple[int, str, dict[str, Any]]] = deque(maxlen=MOST_UNSENT)
_numbers = itertools.count(1)


class _Last:
    """Numbers of events: of the last that was given, and of the last that went out."""

    given = gone = 0


class Dispatcher(bootsteps.StartStopStep):
    """Keeps hold of the consumer: its event dispatcher is made anew with each connection."""

    requires = ("celery.worker.consumer.events:Events",)
    consumer: Any = None

    def start(self, consumer: Any) -> None:
        """The worker has a connection."""
        type(self).consumer = consumer
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None:
            dispatcher.buffer_limit = MOST_TOGETHER
            dispatcher.on_send_buffered = None

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Celery ends this timer with the connection and calls us again with the next one."""
        hub.call_repeatedly(FLUSH_EVERY_S, flush)


PROCESS = "aios_process"
"""Of each heartbeat: a word by which a process is another than the one before of the same name and number."""


def say_process(id: str) -> None:
    """From now on this worker's heartbeats bear its id."""
    SOFTWARE_INFO[PROCESS] = id


def not_consumed(lanes: Sequence[str]) -> list[str]:
    """Those lanes that this worker takes nothing from, because Celery was told so (``cancel_consumer``)."""
    taking = getattr(Dispatcher.consumer, "task_consumer", None)
    if taking is None:  # it has no connection just now
        return []
    return [lane for lane in lanes if not taking.consuming_from(lane)]


def send(type: str, **fields: Any) -> None:
    """Have an event of this moment sent; from any thread. What finds no connection goes with the next one."""
    _Last.given = number = next(_numbers)
    _unsent.append((number, type, {**fields, "timestamp": time.time()}))


def given() -> int:
    """The number of the last event that was to be sent."""
    return _Last.given


def gone() -> int:
    """The number of the last one that this process does not hold any more."""
    return _Last.gone


def flush() -> None:
    """Send the events that are held back."""
    dispatcher = getattr(Dispatcher.consumer, "event_dispatcher", None)
    if dispatcher is None:
        return
    number = _Last.gone
    while _unsent:
        try:
            number, type, fields = _unsent.popleft()
        except IndexError:  # another thread, at the worker's end
            break
        dispatcher.send(type, **fields)  # nothing, where events are switched off
    if dispatcher.enabled:
        dispatcher.flush()
    if not getattr(dispatcher, "_outbound_buffer", ()):  # else a line broke, and the next one takes them
        _Last.gone = number


AGAIN = "aios_rows_again"
"""A word of remote control, to all workers: whoever listens to events has missed some."""

AGAIN_EVERY_S = 0.5


class Steady(weakref.WeakSet[Any]):
    """A set that one thread may go through while another one changes it."""

    def __iter__(self) -> Iterator[Any]:
        refs = list(self.data)  # type: ignore[attr-defined]  # in one go: no other thread comes between
        return iter([item for ref in refs if (item := ref()) is not None])


def steady() -> None:
    """Celery goes through its sets of requests on its own thread (``inspect``, and where its connection
    is lost: an error would end the worker then); steps begin and end on the loop of the pool."""
    for requests in (state.active_requests, state.reserved_requests):
        requests.__class__ = Steady


class StepRequest(Request):
    """Celery's record of a ticket."""

    claim_of: Callable[[str], Claim | None] = staticmethod(lambda _: None)
    """What a ticket has become."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """As Celery's, with the step in the place of arguments."""
        claim = type(self).claim_of(self.id)
        return {**super().info(safe), **(shown(claim) if claim is not None else {})}

    def cancel(self, *_: Any, **__: Any) -> None:
        """Celery's cold shutdown would tell Flower of another try; the runtime gives the step back."""


def shown(claim: Claim) -> dict[str, str]:
    """What ``inspect active`` has of a step."""
    return {"args": arguments(claim.job, claim.step), "kwargs": "{}"}


def answer_again(tell: Callable[[], int]) -> None:
    """Have what was told lately told again where somebody asks for it; not more often than makes sense."""
    said = float("-inf")

    def again(_state: Any, **_: Any) -> dict[str, int]:
        nonlocal said
        if time.monotonic() - said < AGAIN_EVERY_S:
            return {"rows": 0}
        said = time.monotonic()
        return {"rows": tell()}

    Panel.data[AGAIN] = again


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
