"""Jobs, steps and outcomes as records, and the table of the state changes that are allowed."""

from __future__ import annotations

import hashlib
import typing
import zlib
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from aios_dist.config import PromptsConfig
from aios_dist.errors import from_record, to_record
from aios_dist.model.calls import LLMResponse, Request, Usage

COMPRESS_ABOVE = 1024
"""Bytes: requests and outcomes above this are compressed (docs/redis.md)."""

MOST_RECORD = 65 * 1024 * 1024
"""Bytes of a record as JSON: the largest limit of ``[fleet]``, and what stands around it. Nothing larger is
written, and what claims to be larger is not unpacked: a megabyte in Redis may be gigabytes in a worker."""

MOST_NESTED = 4 * 1024 * 1024
"""Lists and objects of a record: each costs the worker that reads it some 64 bytes, and three in Redis."""

DIGEST = 24
"""Characters of a digest; ``_lib.lua`` has the same."""

MOST_SAID = 1_000
MOST_REJECTED = 20
"""Characters of a refusal, and refusals before one step, that are kept."""

TURN = "t"
"""The number of a turn that runs as a step of its own, on the lane ``turns``."""


TURNS_LANE = "turns"
"""Where tools and turns run: on workers that have the agents' code."""


class Kind(StrEnum):
    """What a step is."""

    LLM = "llm"
    TOOL = "tool"
    SLEEP = "sleep"
    SIGNAL = "signal"
    TURN = "turn"


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"  # its plan has not admitted it
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more will happen to the job."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class StepState(StrEnum):
    """Where a step is."""

    PENDING = "pending"  # asked for by a job that is not admitted
    READY = "ready"
    LEASED = "leased"
    TIMED = "timed"  # a sleep
    WAITING = "waiting"  # for a signal
    PARKED = "parked"  # was ready when its job was paused
    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"  # its job ended before it was called


JOB_CHANGES: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.PAUSED, JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset({JobState.RUNNING}),
    JobState.CANCELLED: frozenset({JobState.RUNNING}),
}
"""Every allowed change of a job's state; the Lua verbs keep to it, and a test compares them. WAITING → FAILED
is a deadline; what leads out of FAILED and CANCELLED is ``retry``, asked for by a person."""

STEP_CHANGES: dict[StepState, frozenset[StepState]] = {
    StepState.PENDING: frozenset({StepState.READY, StepState.TIMED, StepState.WAITING, StepState.DROPPED}),
    StepState.READY: frozenset(
        {StepState.LEASED, StepState.PARKED, StepState.DROPPED, StepState.DONE, StepState.FAILED}
    ),
    StepState.LEASED: frozenset(
        {StepState.READY, StepState.PARKED, StepState.DONE, StepState.FAILED, StepState.DROPPED}
    ),
    StepState.TIMED: frozenset({StepState.DONE, StepState.DROPPED}),
    StepState.WAITING: frozenset({StepState.DONE, StepState.DROPPED}),
    StepState.PARKED: frozenset({StepState.READY, StepState.DROPPED, StepState.DONE, StepState.FAILED}),
    StepState.DONE: frozenset(),
    StepState.FAILED: frozenset({StepState.READY}),
    StepState.DROPPED: frozenset(
        {StepState.DONE, StepState.FAILED, StepState.READY, StepState.TIMED, StepState.WAITING}
    ),
}
"""Every allowed change of a step's state. READY → DONE is the late answer of a worker whose lease had
ended and whose step nobody has taken since; DROPPED → DONE the answer of a call that was in flight when
its job ended: both are paid for, so both are kept. FAILED → READY and DROPPED → READY are ``retry``."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step left behind: a response, a tool's value, or an error; once, for ever.

    Attributes:
        at: when it came, seconds since the epoch on Redis' clock, as the program was told; 0.0: see the step.
    """

    response: LLMResponse | None = None
    value: Any = None
    error: dict[str, Any] | None = None
    at: float = 0.0

    @classmethod
    def failed(cls, error: BaseException) -> Outcome:
        """The outcome of a step that raised."""
        return cls(error=to_record(error))

    @property
    def ok(self) -> bool:
        """The step brought what was asked for."""
        return self.error is None

    @property
    def usage(self) -> Usage:
        """What the step was billed for."""
        return self.response.usage if self.response is not None else Usage()

    def result(self) -> Any:
        """What the agent's await gives: a response or a value.

        Raises:
            StepError: the step ended with an error.
        """
        if self.error is not None:
            raise from_record(self.error)
        return self.response if self.response is not None else self.value


class JobRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job was submitted as; written once.

    Attributes:
        deadline: seconds from the submission.
        expected_steps: how many steps the caller thinks it will have, for the policy ``remaining``.
        defaults: of the agent's arguments that were not given, as they were then.
        seed: random: what the program's ``uuid()`` and ``random()`` come from.
        submitted_at: seconds since the epoch, on the producer's clock: where the program's ``now()`` begins.
    """

    agent: str
    input: dict[str, Any]
    tenant: str = "default"
    prompts: PromptsConfig | None = None
    deadline: float | None = None
    expected_steps: int | None = None
    defaults: dict[str, Any] = {}
    seed: str = ""
    submitted_at: float = 0.0

    def digest(self) -> str:
        """Tells two submissions of the same id apart: by what they ask for, not by how soon, nor by defaults
        (who submits by name knows none)."""
        what = msgspec.structs.replace(
            self, deadline=None, expected_steps=None, defaults={}, seed="", submitted_at=0.0
        )
        return digest(msgspec.json.encode(what, order="sorted"))


class Rejection(msgspec.Struct, frozen=True):
    """A request that an agent was refused, and went on from: it is refused at every replay, in these words.

    Attributes:
        type, message: of the error.
        digest: of the request; "" where it had none, since it was not JSON.
    """

    type: str
    message: str
    digest: str = ""

    @classmethod
    def of(cls, error: Exception, digest: str) -> Rejection:
        """What is kept of a refusal."""
        record = to_record(error)
        return cls(record["type"], record["message"][:MOST_SAID], digest)

    def error(self) -> Exception:
        """The error, raised now as at every replay."""
        return from_record({"type": self.type, "message": self.message})


class NewStep(msgspec.Struct, frozen=True):
    """A step that a turn asked for.

    Attributes:
        kind: what it is.
        lane: where it waits.
        request: the encoded request.
        digest: of the request, for the replay check.
        label: a few words for people: the model, the tool, the signal; never the prompt.
        estimate: tokens that an LLM call may take.
        after: seconds of a sleep.
        cost: what an LLM call may take of its tenant's share.
        rejected: what the agent had asked for since the step before, and was refused.
        once: what ``once()`` gave it since then.
    """

    kind: Kind
    lane: str
    request: bytes
    digest: str
    label: str = ""
    estimate: int = 0
    after: float = 0.0
    cost: int = 0
    rejected: tuple[Rejection, ...] = ()
    once: tuple[Outcome, ...] = ()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step as the journal holds it. Times are seconds since the epoch, on Redis' clock.

    Attributes:
        number: 0, 1, 2 … within its job.
        label: the model or the tool.
        rank: the lowest rank on a lane runs first.
        attempt: how often it was claimed.
        order: its place among the outcomes of its job (from 1); 0 while there is none.
        worker: who claimed it last.
        rejected: what the agent had asked for since the step before, and was refused.
        once: what ``once()`` gave it since then.
    """

    job: str
    number: int
    kind: Kind
    lane: str
    state: StepState
    label: str = ""
    rank: float = 0.0
    attempt: int = 0
    order: int = 0
    worker: str = ""
    ready_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    digest: str = ""
    request: Request | None = None
    outcome: Outcome | None = None
    rejected: tuple[Rejection, ...] = ()
    once: tuple[Outcome, ...] = ()

    def told(self) -> Outcome | None:
        """The outcome as the program hears it: with its time."""
        outcome = self.outcome
        if outcome is None or outcome.at:
            return outcome
        return msgspec.structs.replace(outcome, at=self.ended_at)


def digest(data: bytes) -> str:
    """A short stable fingerprint."""
    return hashlib.blake2b(data, digest_size=DIGEST // 2).hexdigest()


def encode(value: Any) -> bytes:
    """A record as the journal keeps it: one byte for the form, then JSON, compressed where it pays.

    JSON and zlib because people read journals with other tools; level 1 because speed counts more here.
    """
    return packed(msgspec.json.encode(value))


def plain_record(value: Any) -> bytes:
    """A record that the journal packs, or takes apart, as it writes it.

    Raises:
        RecordTooLarge: it would not be read again.
    """
    return as_record(msgspec.json.encode(value))


def as_record(data: bytes) -> bytes:
    """The same of what is JSON already."""
    _check_size(data)
    return b"j" + data


def packed(data: bytes) -> bytes:
    """JSON as the journal keeps it.

    Raises:
        RecordTooLarge: it would not be read again.
    """
    _check_size(data)
    if len(data) > COMPRESS_ABOVE:
        return b"z" + zlib.compress(data, 1)
    return b"j" + data


class RecordTooLarge(ValueError):
    """A record that no worker may read: it would take all of its memory."""


def _check_size(data: bytes | memoryview) -> None:
    if len(data) > MOST_RECORD:
        raise RecordTooLarge(f"more than {MOST_RECORD:,} bytes are no record")
    if len(data) > MOST_NESTED and (plain := bytes(data)).count(b"[") + plain.count(b"{") > MOST_NESTED:
        raise RecordTooLarge(f"more than {MOST_NESTED:,} lists and objects are no record")


T = TypeVar("T")


# What msgspec knows of a class it finds out when that is first read; two threads that do so at once end the
# process (msgspec 0.22). So it is done here, while one thread imports: whatever is read has been seen.
for _kind in (Outcome, JobRecord, tuple[Rejection, ...], tuple[Outcome, ...], *typing.get_args(Request)):
    msgspec.json.Decoder(_kind)


def unpacked(data: bytes) -> bytes | memoryview:
    """The JSON that :func:`packed` made a record of.

    Raises:
        RecordTooLarge, zlib.error, ValueError: it is none that was made.
    """
    if data[:1] not in (b"j", b"z"):
        raise ValueError(f"a record begins with j or z, not {data[:1]!r}")
    raw: bytes | memoryview = memoryview(data)[1:]
    if data[:1] == b"z":
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(raw, MOST_RECORD + 1)
        if not unpacking.eof and len(raw) <= MOST_RECORD:
            raise zlib.error("incomplete or truncated stream")
    _check_size(raw)
    return raw


def decode(data: bytes, kind: type[T]) -> T:
    """The record that :func:`encode` made.

    Raises:
        RecordTooLarge: it is larger than any that was made.
        msgspec.MsgspecError, zlib.error, ValueError: it is none.
    """
    return msgspec.json.decode(unpacked(data), type=kind)
