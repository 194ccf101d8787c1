"""A slot whose step is over goes on with the next one: claimed with the commit, with no ticket in between.

A ticket is what wakes a slot that is free. One that has just become free needs no waking: kombu, Celery's
tracer and a greenlet would cost as much of this process as the call itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import greenback
from celery import Task, signals
from celery.app import trace
from celery.worker import state

from aios_dist.broker.tickets import TASK, Tickets
from aios_dist.journal import Asks, Onward
from aios_dist.journal.records import random_name
from aios_dist.program.agents import codes, registered
from aios_dist.worker.leases import Leases
from aios_dist.worker.limits import Stillness
from aios_dist.worker.pool import Spawn
from aios_dist.worker.rows import row_of_try
from aios_dist.worker.shortages import Slots
from aios_dist.worker.telemetry import not_consumed, shown
from aios_dist.worker.work import Next, Work

logger = logging.getLogger("aios_dist.onward")

tracer = logging.getLogger("celery.app.trace")
"""Where Celery says of each ticket what has become of it."""

LATE_S = 0.02
"""A loop that is so late has more than it can do: what others have room for is theirs."""


def kin_of(models: Iterable[str], agents: Iterable[str], codes: Mapping[str, str]) -> str:
    """Workers of the same can serve the same. What one of another kin is left, it may have to put back."""
    served = repr((sorted(models), sorted(agents), sorted(codes.items())))
    return hashlib.sha1(served.encode(), usedforsecurity=False).hexdigest()[:16]


class Spare:
    """What this process has left.

    Args:
        slots: how many it may hold.
        busy: how many steps it holds.
        stillness: how late its loop is.

    Attributes:
        kin: what it serves, as it was announced last, see :func:`kin_of`.
    """

    kin = ""

    def __init__(self, slots: Slots, busy: Callable[[], int], stillness: Stillness) -> None:
        self._slots = slots
        self._busy = busy
        self._stillness = stillness

    @property
    def too_many(self) -> bool:
        """There are more steps than slots, since these have become fewer."""
        return self._busy() > self._slots.now

    def room(self, freed: int = 0) -> bool:
        """Half of the slots are free, and there is time for more. ``freed``: those that are about to be."""
        return 2 * (self._busy() - freed) <= self._slots.now and self._stillness.late < LATE_S


class Onwards:
    """Says what goes with a commit, and runs what comes of it.

    Args:
        spawn: runs a coroutine as the pool's.
        closing: the worker ends.
    """

    def __init__(
        self,
        tickets: Tickets,
        leases: Leases,
        spare: Spare,
        worker: str,
        models: Sequence[str],
        lanes: Sequence[str],
        spawn: Spawn,
        closing: Callable[[], bool],
    ) -> None:
        self.spawn = spawn
        self._tickets = tickets
        self._leases = leases
        self._spare = spare
        self._worker = worker
        self._models = sorted(models)
        self._lanes = list(lanes)
        self._closing = closing

    def asks(self, token: str) -> Asks:
        """As whom this worker claims."""
        return Asks(self._worker, token, models=self._models, agents=sorted(registered()), codes=codes())

    def after(self, work: Work, over: bool = True) -> Onward:
        """What goes with the commit of a step. ``over``: nothing of it is left to do after that."""
        form = self._tickets.form(*work.origin)
        lanes = self._open() if over and not self._ends_with(work) else []
        if not lanes:
            return Onward(form)
        shy = "" if self._spare.room(freed=1) else self._spare.kin
        return Onward(form, lanes, self.asks(random_name()), shy)

    def _ends_with(self, work: Work) -> bool:
        """The slot is not to go on."""
        hung = work.hung is not None and not work.hung.done.done()
        return hung or self._closing() or not self._leases.fresh or self._spare.too_many

    def _open(self) -> list[str]:
        """The lanes that it takes steps from; the one that was served last comes last."""
        closed = not_consumed(self._lanes)
        return [lane for lane in self._lanes if lane not in closed]

    def served(self, lane: str) -> None:
        """A step of that lane was taken: the others go before it."""
        if lane in self._lanes:
            at = self._lanes.index(lane) + 1
            self._lanes = [*self._lanes[at:], *self._lanes[:at]]


class Carried:
    """Celery's record of a step that has come without a ticket: it counts, and ``inspect`` shows it.

    Made while the step before it still counts: else Celery would take a ticket for the slot.
    """

    name = TASK
    acknowledged = True
    _eta_timer_entry = None

    def __init__(self, task: Task, next: Next) -> None:
        self.task = task
        self.next = next
        self.id = row_of_try(next.claim.job, next.claim.step, next.claim.token)
        self._since = time.time()
        state.task_reserved(self)
        state.task_accepted(self)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """As Celery's own requests."""
        return {
            "id": self.id,
            "name": self.name,
            **shown(self.next.claim),
            "type": self.name,
            "hostname": self._host,
            "time_start": self._since,
            "acknowledged": True,
            "delivery_info": self._delivery,
            "worker_pid": os.getpid(),
        }

    @property
    def _host(self) -> str:
        return self.next.claim.worker.rsplit(":", 2)[0]

    @property
    def _delivery(self) -> dict[str, Any]:
        return {"exchange": "", "routing_key": self.next.lane, "priority": None, "redelivered": False}

    def humaninfo(self) -> str:
        """In Celery's log."""
        return f"{self.name}[{self.id}]"

    def cancel(self, *_: Any, **__: Any) -> None:
        """Celery's cold shutdown: the runtime gives the step back."""

    terminate = cancel

    async def traced(self) -> None:
        """Celery runs the step, as that of a ticket: it calls the task, and tells who listens of it."""
        request = {
            "id": self.id,
            "task": TASK,
            "root_id": self.next.root or self.id,
            "parent_id": self.next.parent,
            "hostname": self._host,
            "delivery_info": self._delivery,
        }
        run = greenback.with_portal_run_sync(self.task.__trace__, self.id, [], {}, request)
        try:
            await asyncio.create_task(run, context=contextvars.copy_context())  # what it sets, no other sees
        except Exception:  # of who put something in the place of Celery's tracer
            logger.exception("What is told of each task broke over %s; the step runs all the same.", self.id)

    def over(self) -> None:
        """The step is over; called when the next one, if there is one, has its record."""
        state.task_ready(self)
        tracer.info("Task %s[%s] is over after %.3f s", self.name, self.id, time.time() - self._since)


def heard() -> bool:
    """Somebody wants to be told of each task: by Celery's signals, or in the place of its tracer (Sentry)."""
    told = signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure
    return (
        any(signal.receivers for signal in (*told, signals.task_retry))
        or trace.build_tracer.__module__ != trace.__name__
    )
