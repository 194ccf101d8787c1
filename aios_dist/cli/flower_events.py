"""What Flower hears: events that are some, and rows that do not stay STARTED when their worker is gone.

One event with a word in the place of a number makes Flower's pages answer 500 for good. And a worker that is
killed says nothing more: those of its rows of which the worker in office does not know either (their steps
were written, or both were lost) would be STARTED for ever.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import defaultdict
from typing import Any, NamedTuple

import flower.app
import flower.events
from celery.events import EventReceiver
from flower.events import Events, EventsState
from kombu.exceptions import OperationalError
from tornado.ioloop import PeriodicCallback

from aios_dist.broker.messages import Tally
from aios_dist.worker.telemetry import AGAIN, PROCESS

logger = logging.getLogger("aios_dist.flower")

SAID_EVERY_S = 60.0
ASK_AFTER_S = (1.0, 4.0)
"""After a line was made: by Flower, which then waits a moment until it is subscribed, or by a worker."""

NUMBERS = ["utcoffset", "clock", "pid", "freq", "active", "processed", "runtime", "retries"]
TIMES = ["timestamp", "local_received"]
OF_ROWS = ["received", "started", "succeeded", "failed", "retried", "revoked"]
"""Times that a worker may say of a row besides those of the events themselves."""
TEXTS = ["name", "args", "kwargs", "result", "exception", "traceback", "uuid", "root_id", "parent_id"]
TEXTS += [
    "worker_lost",
    PROCESS,
    "queue",
    "exchange",
    "routing_key",
    "eta",
    "expires",
    "sw_ident",
    "sw_ver",
    "sw_sys",
]
SCALARS = ["terminated", "expired", "requeue", "signum", "again"]
FIELDS = {"type", "hostname", "loadavg", *NUMBERS, *TIMES, *TEXTS, *SCALARS}
_HALF = re.compile("[\ud800-\udfff]")
MOST_OFFSET_H = 24
"""Celery moves an event's time by its ``utcoffset``."""
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
        and _is_text(kind)
        and _is_text(known.get("hostname"))
        and "timestamp" in known
        and (known.get("uuid") or not kind.startswith("task-"))
        and isinstance(load, list)
        and all(_is_number(n, MOST) for n in (*load, *(known[name] for name in NUMBERS if name in known)))
        and abs(known.get("utcoffset", 0)) <= MOST_OFFSET_H
        and all(_is_time(known[name]) for name in TIMES if name in known)
        and all(_is_text(known[name]) for name in TEXTS if name in known)
        and all(isinstance(it, bool | int) or _is_text(it) for name in SCALARS if (it := known.get(name)))
    ):
        raise ValueError("a field of an event is not of its kind")
    known |= {name: event[name] for name in OF_ROWS if _is_time(event.get(name))}
    return known


def _is_text(value: object) -> bool:
    """One that a page can be written with: half a character, which JSON can say, ends it."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


def _is_time(value: object) -> bool:
    """Seconds since the epoch, some days after it: a page can show no year before the first."""
    return isinstance(value, int | float) and _is_number(value, YEAR_5000) and value >= MOST_OFFSET_H * 3600


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


class Who(NamedTuple):
    """A process of a worker; ``process`` is a word of its own, "" of a release that says none."""

    hostname: str
    pid: Any
    process: str = ""


class Rows(EventsState):  # type: ignore[misc]  # Flower has no types
    """Flower's record, that knows which rows are open at which process of which worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: defaultdict[Who, dict[str, None]] = defaultdict(dict)
        self._heard: dict[Who, float] = {}
        self._asked: dict[Who, float] = {}  # of which silence it was asked about
        self._processes: dict[tuple[str, Any], str] = {}
        for uuid, row in self.tasks.items():  # of FLOWER_PERSISTENT
            if row.state == "STARTED" and row.worker is not None:
                who = Who(row.worker.hostname, row.worker.pid)
                self._open[who][uuid], self._heard[who] = None, time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """One that is sound."""
        who = self._who(event.pop(PROCESS, ""), event)
        kind, uuid = event["type"], event.get("uuid")
        row = self.tasks.data.get(uuid)
        if kind != "worker-offline":  # of the rest it says nothing more; of its rows it has spoken before
            self._heard[who] = time.monotonic()
        if "again" in event and row is not None and not self._is_news(row, kind):
            return
        super().event(event)
        if uuid is not None and kind.startswith("task-"):
            row = self.tasks.data[uuid]
            row.__dict__.setdefault("heard", set()).add(kind)
            if lost := event.get("worker_lost"):  # whose row it is; the event is of the one who noticed
                row.worker = self.workers.data.get(lost) or self.Worker(lost)
        if kind == "task-started":
            self._open[who][str(uuid)] = None
        elif kind in ENDED_BY:
            for rows in self._open.values() if "worker_lost" in event else [self._open[who]]:
                rows.pop(str(uuid), None)

    def _who(self, process: str, event: dict[str, Any]) -> Who:
        """The process of which an event is. Its number may be that of the one before: a container that is
        started again has the same name and the same number (1); so each says another word beside."""
        place = (event["hostname"], event.get("pid"))
        known = self._processes.get(place, "")
        if process and process != known:
            self._processes[place] = process
            if not known:  # until now it had not said it
                before, now = Who(*place), Who(*place, process)
                self._open[now] |= self._open.pop(before, {})
                self._heard.pop(before, None)
        return Who(*place, process or known)

    def _is_news(self, row: Any, kind: str) -> bool:
        """Whether what is told again says something that was not heard."""
        if kind == "task-started" and row.state == LOST:  # it is not: its worker has it
            row.__dict__.update(state="RECEIVED", result=None, exception=None)
            return True
        if kind in row.__dict__.get("heard", ()) or row.ready:
            return False
        return row.state in BEGUN or kind in ENDED_BY

    def close_lost(self, silent_s: float) -> int:
        """Give the open rows of workers that were silent for so many seconds an end; how many there were.

        After half of the time they are asked: a worker may send no heartbeats, or the line is to blame.
        """
        closed, now = 0, time.monotonic()
        for who, heard in list(self._heard.items()):
            if now - heard < silent_s / 2:
                continue
            if self._open.get(who) and self._asked.get(who) != heard:
                self._asked[who] = heard
                SoundEvents.missed_some()
            if now - heard < silent_s:
                continue
            del self._heard[who]
            self._asked.pop(who, None)
            worker = self.workers.data.get(who.hostname)
            if self._processes.get(who[:2], "") == who.process:
                self._processes.pop(who[:2], None)
                if worker is not None and worker.pid == who.pid:
                    worker.active = 0  # of its last sign of life
            for uuid in self._open.pop(who, {}):
                row = self.tasks.data.get(uuid)
                if row is not None and row.state == "STARTED":
                    self._close(row, who)
                    closed += 1
        return closed

    def _close(self, row: Any, who: Who) -> None:
        said, there = f"{who.hostname} (process {who.pid})", who.hostname in self.workers
        super().event(
            {
                "type": f"task-{LOST.lower()}",
                "uuid": row.uuid,
                "hostname": who.hostname,
                "pid": who.pid,
                "clock": row.clock,
                "timestamp": time.time(),
                "local_received": None,  # no sign of life
                "result": "the worker is gone",
                "exception": f"WorkerLost: {said} is silent; `aios-dist job show` knows what became of it",
            }
        )
        if not there:  # nor is it a worker once more
            self.workers.pop(who.hostname, None)


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
