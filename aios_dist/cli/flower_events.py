"""What Flower hears: events that are some, and rows that do not stay STARTED when their worker is gone.

One event with a word in the place of a number makes Flower's pages answer 500 for good. And a worker that is
killed says nothing more: those of its rows of which the worker in office does not know either (their steps
were written, or both were lost) would be STARTED for ever.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from typing import Any

import flower.app
import flower.events
from celery.events import EventReceiver
from flower.events import Events, EventsState
from kombu.exceptions import OperationalError
from tornado.ioloop import PeriodicCallback

from aios_dist.broker.messages import Tally
from aios_dist.worker.telemetry import AGAIN

logger = logging.getLogger("aios_dist.flower")

SAID_EVERY_S = 60.0
ASK_AFTER_S = (1.0, 4.0)
"""After a line was made: by Flower, which then waits a moment until it is subscribed, or by a worker."""

NUMBERS = ["utcoffset", "clock", "pid", "freq", "active", "processed", "runtime", "retries"]
TIMES = ["timestamp", "local_received"]
OF_ROWS = ["received", "started", "succeeded", "failed", "retried", "revoked"]
"""Times that a worker may say of a row besides those of the events themselves."""
TEXTS = ["name", "args", "kwargs", "result", "exception", "traceback", "uuid", "root_id", "parent_id"]
TEXTS += ["worker_lost", "queue", "exchange", "routing_key", "eta", "expires", "sw_ident", "sw_ver", "sw_sys"]
SCALARS = ["terminated", "expired", "requeue", "signum", "again"]
FIELDS = {"type", "hostname", "loadavg", *NUMBERS, *TIMES, *TEXTS, *SCALARS}
MOST, YEAR_5000 = 10**15, 95_617_584_000


def sound(event: object) -> dict[str, Any]:
    """The fields of an event that Celery's record of workers and tasks knows, each of its own kind.

    Raises:
        ValueError: one is not, or one that every event has is missing.
    """
    if not isinstance(event, dict):
        raise ValueError("an event is a table")
    # Any other would stand in the place of what the record itself knows of a task: `worker`, `state`.
    known = {name: event[name] for name in FIELDS & event.keys() if event[name] is not None}
    kind, load = known.get("type"), known.get("loadavg", [])
    if not (
        isinstance(kind, str)
        and "-" in kind
        and isinstance(known.get("hostname"), str)
        and "timestamp" in known
        and (known.get("uuid") or not kind.startswith("task-"))
        and isinstance(load, list)
        and all(_is_number(n, MOST) for n in (*load, *(known[name] for name in NUMBERS if name in known)))
        and all(_is_number(known[name], YEAR_5000) for name in TIMES if name in known)
        and all(isinstance(known[name], str) for name in TEXTS if name in known)
        and all(isinstance(known[name], bool | int | str) for name in SCALARS if name in known)
    ):
        raise ValueError("a field of an event is not of its kind")
    known |= {name: event[name] for name in OF_ROWS if _is_number(event.get(name), YEAR_5000)}
    return known


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < most


class SoundEvents(EventReceiver):  # type: ignore[misc]
    """Receives Celery's events; drops those that are none, and says so once a minute."""

    dropped = 0
    said_at = -SAID_EVERY_S
    ask_at: tuple[float, ...] = ()
    """When workers are to be asked for what they have told lately (monotonic)."""

    def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
        """This line is new: what was said before it was not heard."""
        super().on_consume_ready(*args, **kwargs)
        self.missed_some()

    @classmethod
    def missed_some(cls) -> None:
        """Ask when both sides listen, and once more."""
        now = time.monotonic()
        cls.ask_at = tuple(now + after for after in ASK_AFTER_S)

    def get_consumers(self, Consumer: Any, channel: Any) -> Any:
        """Celery's own, that go on after a message which cannot be decoded."""
        consumers = super().get_consumers(Consumer, channel)
        for consumer in consumers:
            consumer.on_decode_error = lambda message, error: self.drop()
        return consumers

    def _receive(self, body: Any, message: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            try:
                known = sound(event)
                super()._receive(known, message)
                if known["type"] == "worker-online":
                    self.missed_some()  # its line may be a new one
            except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError):
                self.drop()

    def drop(self) -> None:
        """Count one more."""
        kind = type(self)
        kind.dropped += 1
        if time.monotonic() - kind.said_at >= SAID_EVERY_S:
            kind.said_at = time.monotonic()
            logger.warning("Events that are none of Celery's were dropped: %d so far.", kind.dropped)


# Rows ------------------------------------------------------------------------------------------------

LOOK_S = 0.5
"""Between two looks at who is silent, and at whether something was missed."""

AND_MORE_S = 4.0
"""After a lease: whoever is in office finds out first that it has ended, and knows more."""

BEGUN = ("PENDING", "RECEIVED", "STARTED")
ENDED_BY = ("task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected")
LOST = "LOST"
"""The state of a row whose worker is gone, and of which nobody has said what became of it."""


class Rows(EventsState):  # type: ignore[misc]  # Flower has no types
    """Flower's record, that knows which rows are open at which process of which worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: defaultdict[tuple[str, Any], dict[str, None]] = defaultdict(dict)
        self._heard: dict[tuple[str, Any], float] = {}
        for uuid, row in self.tasks.items():  # of FLOWER_PERSISTENT
            if row.state == "STARTED" and row.worker is not None:
                who = (row.worker.hostname, row.worker.pid)
                self._open[who][uuid], self._heard[who] = None, time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """One that is sound."""
        kind, uuid = event["type"], event.get("uuid")
        row = self.tasks.data.get(uuid)
        if "again" in event and row is not None:
            begun = row.state in BEGUN
            if kind in row.__dict__.get("heard", ()) or row.ready or not (begun or kind in ENDED_BY):
                return
        worker = row.worker if row is not None and "worker_lost" in event else None
        super().event(event)
        if uuid is not None and kind.startswith("task-"):
            self.tasks.data[uuid].__dict__.setdefault("heard", set()).add(kind)
        if worker is not None:  # the one who noticed it is not the one who was lost
            self.tasks.data[uuid].worker = worker
        if kind == "worker-offline":
            return  # what it has to say of its rows came before; of the rest it says nothing more
        who = (event["hostname"], event.get("pid"))
        self._heard[who] = time.monotonic()
        if kind == "task-started":
            self._open[who][str(uuid)] = None
        elif kind in ENDED_BY:
            for rows in self._open.values() if "worker_lost" in event else [self._open[who]]:
                rows.pop(str(uuid), None)

    def close_lost(self, silent_s: float) -> int:
        """Give the open rows of workers that were silent for so many seconds an end; how many there were."""
        closed, now = 0, time.monotonic()
        for who, heard in list(self._heard.items()):
            if now - heard < silent_s:
                continue
            del self._heard[who]
            worker = self.workers.data.get(who[0])
            if worker is not None and worker.pid == who[1]:
                worker.active = 0  # of its last sign of life
            for uuid in self._open.pop(who, {}):
                row = self.tasks.data.get(uuid)
                if row is not None and row.state == "STARTED":
                    self._close(row, *who)
                    closed += 1
        return closed

    def _close(self, row: Any, hostname: str, pid: Any) -> None:
        who, there = f"{hostname} (process {pid})", hostname in self.workers
        super().event(
            {
                "type": f"task-{LOST.lower()}",
                "uuid": row.uuid,
                "hostname": hostname,
                "pid": pid,
                "clock": row.clock,
                "timestamp": time.time(),
                "local_received": None,  # no sign of life
                "result": "the worker is gone",
                "exception": f"WorkerLost: {who} is silent; `aios-dist job show` knows what became of it",
            }
        )
        if not there:  # nor is it a worker once more
            self.workers.pop(hostname, None)


class Listening(Events):  # type: ignore[misc]
    """Flower's thread that listens. Its own waits twice as long after each failure, without a bound."""

    def run(self) -> None:
        """Until the process ends."""
        while True:
            try:
                with self.capp.connection() as line:
                    heard = SoundEvents(line, handlers={"*": self.on_event}, app=self.capp)
                    heard.capture(limit=None, timeout=None, wakeup=True)
            except Exception as exc:
                _cannot_listen.add(f"{type(exc).__name__}: {exc}")
            time.sleep(LISTEN_AGAIN_S)


LISTEN_AGAIN_S = 1.0
_cannot_listen = Tally(logger.error, "Flower hears no events, and tries again: %s (%d times so far).")


def install() -> None:
    """Before Flower begins to listen."""
    flower.events.EventReceiver = SoundEvents
    flower.events.EventsState = Rows
    flower.app.Events = Listening


def look_after(web: Any, lease: float) -> None:
    """Close lost rows, and ask for what was missed: now and then, on the web application's own loop."""

    def ask() -> None:
        try:
            web.capp.control.broadcast(AGAIN)
        except OperationalError:
            SoundEvents.missed_some()  # Redis is away

    async def look() -> None:
        web.events.state.close_lost(lease + AND_MORE_S)
        due = [at for at in SoundEvents.ask_at if at <= time.monotonic()]
        if due:
            SoundEvents.ask_at = SoundEvents.ask_at[len(due) :]
            await web.io_loop.run_in_executor(None, ask)

    web.looking_after = PeriodicCallback(look, LOOK_S * 1000)
    web.looking_after.start()
