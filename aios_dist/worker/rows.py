"""The rows of Flower: one for each try of a step, and one for each job's end, whose children the tries are.

A row's id is its claim's, so no ticket that is a spare one, or comes twice, makes or changes a row. Each
event has all that its row shows: whoever begins to listen in the middle sees whole rows. Times are Redis'
clock's, as those of ``aios-dist job show``. Never a prompt, never an answer, never a key.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from aios_dist.errors import class_of, describe
from aios_dist.journal import Claim, Ended, Lost
from aios_dist.model.jobs import JobState
from aios_dist.text.lines import harmless, one_line
from aios_dist.text.masking import hide_in

if TYPE_CHECKING:
    from aios_dist.worker.work import Work

logger = logging.getLogger("aios_dist.rows")

LONGEST = 500
"""Characters of an error's text."""

AGAIN_S = 60.0
MOST_AGAIN = 2_000
"""Ends that are told once more to who asks: of so many seconds, and so many, 1 kB each."""


class Came(StrEnum):
    """What a try came to, in the words of Celery's events."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # for good
    RETRIED = "retried"  # the step is tried again, here or elsewhere
    REVOKED = "revoked"  # nobody wants it any more


class End(NamedTuple):
    """… and a few words for people, the error, and where in the user's code it was raised."""

    came: Came
    said: str
    error: str = ""
    traceback: str = ""

    @classmethod
    def failed(cls, record: dict[str, Any]) -> End:
        """By an error, as the journal holds it."""
        text = one_line(f"{class_of(record)}: {record.get('message', '')}", LONGEST)
        return cls(Came.FAILED, text, text, harmless(str(record.get("traceback") or "")))

    @classmethod
    def again(cls, error: Exception, said: str) -> End:
        """By an error that may pass."""
        return cls(Came.RETRIED, said, one_line(describe(error), LONGEST))


UNKNOWN = {"type": "Error", "message": "`aios-dist job show` says more, where the job is still there"}
"""In the place of an error that cannot be had any more: the job was retried meanwhile, or is gone."""


def row_of_job(job: str, life: str) -> str:
    """The id of the row that a job's end is. ``life`` (:attr:`Claim.incarnation`) tells apart what is
    submitted under the same id later, and what a retry makes of it."""
    return f"{job}.{life}" if life else job


def row_of_try(job: str, step: str, token: str) -> str:
    """The id of a try's row."""
    return f"{job}.{step}.{token}"


class Rows:
    """Tells of the rows that one worker makes.

    Args:
        send: an event: its type, and its fields.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._open: dict[str, dict[str, Any]] = {}
        self._ended: deque[tuple[float, str, dict[str, Any]]] = deque(maxlen=MOST_AGAIN)

    def started(self, claim: Claim) -> None:
        """A step has been claimed."""
        fields = _try(claim)
        self._open[fields["uuid"]] = fields
        self._begin(fields)

    def ended(self, work: Work, end: End) -> None:
        """What came of it."""
        self._open.pop(row_of_try(work.claim.job, work.claim.step, work.claim.token), None)
        self._end(end, time.monotonic() - work.asked, **_try(work.claim))

    def lost(self, one: Lost) -> None:
        """A lease has ended: whatever its worker still says of that try, the step is somebody else's now."""
        error = f"WorkerLost: {one.worker} was lost, or did not renew, before it answered"
        end = {
            "ready": End(Came.RETRIED, "the worker was lost; the step goes to another", error),
            "parked": End(Came.RETRIED, "the worker was lost; the job is paused", error),
            "idle": End(Came.RETRIED, "the worker was lost; the job is paused", error),
            "failed": End(Came.FAILED, "given up: every worker that tried was lost", error),
        }.get(one.state, End(Came.REVOKED, "the worker was lost; the job has ended", error))
        self._end(
            end,
            None,
            uuid=row_of_try(one.job, one.step, one.token),
            parent_id=row_of_job(one.job, one.life),
            root_id=row_of_job(one.job, one.life),
            # Whose row it is: the event itself comes from the one who noticed.
            worker_lost=one.worker.rsplit(":", 2)[0],
            **_named(one.agent, one.job, one.step, one.kind, one.label, one.attempt),
        )

    def job_ended(self, end: Ended) -> None:
        """A job has ended, by whoever's doing."""
        row = row_of_job(end.job, end.life)
        plan = f", plan {end.plan}" if end.plan else ""
        fields: dict[str, Any] = {
            "uuid": row,
            "root_id": row,
            "name": end.agent,
            "args": f"job {end.job}",
            "kwargs": f"job, tenant {end.tenant}{plan}, steps {end.steps}",
        }
        if end.submitted_at:
            fields["received"] = fields["started"] = end.submitted_at
        self._begin(fields)
        usage = end.usage
        said = f"{usage.calls} calls, {usage.prompt_tokens} + {usage.output_tokens} tokens"
        came = {
            JobState.FAILED: End.failed(end.error or UNKNOWN),
            JobState.CANCELLED: End(Came.REVOKED, f"cancelled, {said}"),
        }.get(end.state, End(Came.SUCCEEDED, said))
        took = max(0.0, end.ended_at - end.submitted_at) if end.submitted_at and end.ended_at else None
        self._end(came, took, **fields)

    def again(self) -> int:
        """Tell what has been told lately: who asks has not heard it all, since a line was cut, or is new.
        From any thread.

        Returns:
            How many rows it was.
        """
        since = time.monotonic() - AGAIN_S
        ended = [(type, fields) for at, type, fields in list(self._ended) if at >= since]
        begun = list(self._open.values())
        for fields in (*begun, *(fields for _, fields in ended)):
            self._begin({**fields, "again": 1})
        for type, fields in ended:
            self._tell(type, **fields, again=1)
        return len(begun) + len(ended)

    def _begin(self, fields: dict[str, Any]) -> None:
        self._tell("task-received", **fields)
        self._tell("task-started", **fields)

    def _end(self, end: End, took: float | None, **fields: Any) -> None:
        fields["result"] = one_line(end.said, LONGEST)
        if took is not None:
            fields["runtime"] = round(took, 6)
        if end.error:
            fields["exception"] = end.error
        if end.traceback:
            fields["traceback"] = end.traceback
        fields[end.came.value] = round(time.time(), 6)
        self._ended.append((time.monotonic(), f"task-{end.came}", fields))
        self._tell(f"task-{end.came}", **fields)

    def _tell(self, type: str, **fields: Any) -> None:
        try:
            self._send(type, **hide_in(fields))
        except Exception as exc:  # what Flower shows is no reason to give a step back
            logger.debug("Flower was not told: %s", exc)


def _try(claim: Claim) -> dict[str, Any]:
    parent = row_of_job(claim.job, claim.incarnation)
    return {
        "uuid": row_of_try(claim.job, claim.step, claim.token),
        "parent_id": parent,
        "root_id": parent,
        "received": claim.ready_us / 1e6,
        "started": claim.started_us / 1e6,
        **_named(claim.record.agent, claim.job, claim.step, claim.kind.value, claim.label, claim.attempt),
    }


def _named(agent: str, job: str, step: str, kind: str, label: str, attempt: int) -> dict[str, Any]:
    """What people see of a try. The job's own row has `job` in the place of the kind."""
    return {
        "name": agent,
        "args": f"job {job}, step {'turn' if kind == 'turn' else step}",
        "kwargs": f"{kind} {label}" + (f", attempt {attempt}" if attempt > 1 else ""),
        "retries": attempt - 1,
    }
