"""Every error a user of aios_dist can meet.

::

    AiosError
    ├── UsageError                what the caller asked for cannot be done; nothing was written
    │   ├── ConfigError           aios.toml, the environment, or a missing package
    │   ├── InvalidInput          arguments, prompts, ids, plans
    │   ├── UnknownName           an agent, model, lane, pool or job that does not exist
    │   └── JobConflict           the id belongs to another job already; jobs before it: ``.ids``
    ├── FleetUnavailable          Redis cannot be reached, or refuses to serve us
    │   └── RedisUnfit            waiting does not help: it refuses the account, or may evict keys
    ├── JournalError              a write stopped in its middle; what it left is put right
    ├── JobError                  raised by ``Job.result()``
    │   ├── JobFailed             the agent raised; ``.error`` says what
    │   ├── JobCancelled
    │   ├── JobParked             its agent's code has changed: it is paused until there is code that fits
    │   └── ResultTimeout         (also a TimeoutError) the job goes on
    └── StepError                 raised inside an agent by ``await llm()`` or ``await tool()``
        ├── LLMError
        │   ├── RetryableLLMError
        │   │   ├── RateLimited       429
        │   │   ├── ProviderBusy      408, 409, 5xx
        │   │   ├── ConnectionBroken  no connection, or it ended before the answer did
        │   │   └── CallTimeout       no answer within the model's ``timeout``
        │   └── FinalLLMError
        │       ├── BadRequest        400, 413, 422 and whatever else will not get better
        │       ├── NotAllowed        401, 403
        │       ├── ModelNotFound     404
        │       ├── ContentRefused    the provider's filter stopped the answer
        │       └── BadReply          an answer that is not of the protocol
        ├── ToolError             the tool raised
        ├── WorkerLost            the step's worker died each time it was tried
        ├── DeadlineExceeded      the job had not ended in time
        ├── BudgetReached         the job, or its tenant, has spent what it may
        ├── JournalDamaged        what Redis holds of the job cannot be read
        └── ProgramChanged        the agent does not repeat its own steps on replay: its job is parked

*Retryable* is a class, not a flag: ``except RetryableLLMError`` is the whole test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from aios_dist.text.lines import harmless
from aios_dist.text.masking import hide
from aios_dist.text.tracebacks import MESSAGE_LIMIT, name_of, text_of, user_traceback
from aios_dist.text.tracebacks import describe as describe


class AiosError(Exception):
    """The root: ``except AiosError`` catches everything this package raises on purpose.

    Attributes:
        ids: of a submission that broke off: the jobs that are there, or may be, in the order in which they
            were given. Submitted again under these ids (``job.named(id)``) they are the same jobs.
        plan: … and the id of the plan, where it was one.
        what: what is wrong, without a full stop, and
        fix: what to do about it, in words that go on with it; both "" where the message is one piece.
    """

    ids: tuple[str, ...] = ()
    plan: str | None = None
    what: str = ""
    fix: str = ""

    @classmethod
    def with_fix(cls, what: str, fix: str, between: str = "; ") -> Self:
        """An error that says what to do: in its message, and as a field for who shows them apart."""
        error = cls(f"{what}{between}{fix}.")
        error.what, error.fix = what, fix
        return error

    def broke_off(self, ids: Sequence[str], plan: str | None = None) -> None:
        """Say which jobs may be there."""
        self.ids, self.plan = tuple(ids), plan
        if plan is not None:
            may = f"Plan {plan!r}"
        elif len(ids) == 1:
            may = f"Job {ids[0]!r}"
        else:
            may = f"The first {len(ids):,} jobs, {ids[0]!r} to {ids[-1]!r} (.ids has all),"
        self.args = (
            f"{self} {may} may be there all the same: submitted again under the same ids it is the same.",
        )


class UsageError(AiosError):
    """A request that cannot be met as it stands. The command line exits with 2."""


class ConfigError(UsageError):
    """A setting is missing, misspelt or out of range."""


class InvalidInput(UsageError, ValueError):
    """An argument, prompt, id or plan that cannot be accepted."""


class UnknownName(UsageError, LookupError):
    """Nothing of that name: agent, model, lane, pool or job."""


class JobConflict(UsageError):
    """The id is taken by a job with another agent or other input."""


class FleetUnavailable(AiosError):
    """Redis cannot be reached, or is set up in a way that would lose work."""


class RedisUnfit(FleetUnavailable):
    """Redis is there, and waiting does not help: it refuses the account, or may evict keys and lose jobs."""


class JournalError(AiosError):
    """A write to the journal stopped in its middle. What it left is put right, at once or by the reconciler:
    look what is there, and ask again."""


class JobError(AiosError):
    """What ``Job.result()`` raises when there is no result."""


class JobFailed(JobError):
    """The job ended with an error.

    Attributes:
        job_id: the job.
        error: the error that ended it, of the class that the agent saw, where that is known.
    """

    def __init__(self, job_id: str, error: Exception) -> None:
        super().__init__(f"job {job_id!r} failed: {harmless(describe(error))}")
        self.job_id = job_id
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id, self.error), self.__dict__

    @property
    def traceback(self) -> str:
        """Where in the agent's code it was raised, with the lines of code; "" where that is not known."""
        return str(getattr(self.error, "traceback", ""))


class JobCancelled(JobError):
    """The job was cancelled."""


class JobParked(JobError):
    """The code of the job's agent does not fit what its journal holds, so it is paused: nothing is lost, and
    nothing is paid again. It goes on by itself when a worker has the code again that it began with.

    Attributes:
        job_id: the job: the one that was waited for, or one that this waits for in its plan.
        reason: what has changed, and at which step.
    """

    job_id: str = ""
    reason: str = ""

    @classmethod
    def of(
        cls, job_id: str, reason: str, code: str = "", waited: str = "", *, over_limit: bool = False
    ) -> Self:
        """The error of a job that is parked for this reason.

        Args:
            code: with which it goes on by itself; "": with none.
            waited: the job that was waited for, where that waits for this one in its plan.
            over_limit: it would hold more than ``job_limit``; its agent's code is as it was.
        """
        what = f"{reason}\n" if "\n" in reason else f"{reason.rstrip('.')}. "
        first = (
            f"job {waited!r} waits in its plan for one that is parked: " if waited not in ("", job_id) else ""
        )
        itself = f"It goes on by itself when a worker has code {code}; or try" if code else "Try"
        todo = (
            f"{itself} the code of now: `aios-dist job resume {job_id}`, with `--from-step K` where that "
            "asks for something else from step K on."
        )
        if over_limit:
            todo = (
                "Give job_limit in [fleet] a larger number, start the workers with it, and: "
                f"`aios-dist job resume {job_id}`."
            )
        error = cls(f"{first}job {job_id!r} is parked, with nothing lost: {what}{todo}")
        error.job_id, error.reason = job_id, reason
        return error


class ResultTimeout(JobError, TimeoutError):
    """The wait ended before the job did. The job goes on; ask again."""


class StepError(AiosError):
    """A step ended with an error instead of a value.

    Attributes:
        detail: what is known beyond the message (``status``, ``retry_after_s``, ``provider``, …).
        traceback: the frames of the user's code in the process where it was raised; "" where there are none.
    """

    traceback: str = ""

    def __init__(self, message: str, /, **detail: Any) -> None:
        super().__init__(message)
        self.detail: dict[str, Any] = {k: v for k, v in detail.items() if v is not None}


class LLMError(StepError):
    """A provider call that brought no answer."""


class RetryableLLMError(LLMError):
    """The same call may succeed later."""


class RateLimited(RetryableLLMError):
    """429. ``detail["retry_after_s"]`` is the provider's own wish, in seconds, where it gave one."""


class ProviderBusy(RetryableLLMError):
    """408, 409, 5xx."""


class ConnectionBroken(RetryableLLMError):
    """No connection, or it was cut before the answer was complete."""


class CallTimeout(RetryableLLMError):
    """No complete answer within the model's ``timeout``."""


class FinalLLMError(LLMError):
    """The same call will fail again."""


class BadRequest(FinalLLMError):
    """400, 413, 422, or any other refusal of the request as it stands."""


class NotAllowed(FinalLLMError):
    """401, 403: the key is missing, wrong, or has no right to this model."""


class ModelNotFound(FinalLLMError):
    """404."""


class ContentRefused(FinalLLMError):
    """The provider's content filter stopped the request or the answer."""


class BadReply(FinalLLMError):
    """The provider answered something that is not of its protocol."""


class ToolError(StepError):
    """The tool's function raised; the message carries its type and text."""


class WorkerLost(StepError):
    """Every worker that tried the step was lost before it could write the outcome."""


class DeadlineExceeded(StepError):
    """The job had not ended within its deadline."""


class BudgetReached(StepError):
    """The job, or its tenant for the day, has spent what it may."""


class JournalDamaged(StepError):
    """What Redis holds of the job cannot be read: a record that is not one of ours, or is damaged."""


class ProgramChanged(StepError):
    """On replay the agent asked for something else than what its journal holds.

    Attributes:
        was, now: what the step was that its ``detail`` names, and what it is now.
        place: the lines of code that ask for that, where they are known.
    """

    was: str = ""
    now: str = ""
    place: str = ""


_BY_NAME: dict[str, type[AiosError]] = {}


def _register(cls: type[AiosError]) -> None:
    _BY_NAME[cls.__name__] = cls
    for sub in cls.__subclasses__():
        _register(sub)


_register(AiosError)


def to_record(error: BaseException) -> dict[str, Any]:
    """The error as plain data for the journal; whatever the user's class does, there is a record.

    Returns:
        ``{"type", "message", "detail"}``, with ``traceback`` where there are frames; of a class that is not
        ours also the ``module``, and as ``kind`` the class of ours that it is derived from.
    """
    try:
        return _record(error)
    except BaseException as exc:  # not even a MemoryError here may cost an outcome that is paid for
        return {
            "type": name_of(type(error)),
            "message": f"(it cannot be written: {name_of(type(exc))})",
            "detail": {},
        }


def _record(error: BaseException) -> dict[str, Any]:
    # What is below a provider's error is the SDK's business, and may hold what the provider sent.
    frames = user_traceback(error, causes=not issubclass(type(error), LLMError))
    return {
        "type": _words(name_of(type(error))),
        "message": hide(text_of(error)),
        "detail": _detail(error),
        **_origin(type(error)),
        **({"traceback": hide(frames)} if frames else {}),
    }


def _origin(kind: type) -> dict[str, str]:
    """Where a class that is not ours comes from, and which of ours stands behind it."""
    line = type.__dict__["__mro__"].__get__(kind)
    ours = next((name for cls in line for name, known in _BY_NAME.items() if known is cls), "")
    if ours and _BY_NAME[ours] is kind:
        return {}
    module = type.__dict__["__dict__"].__get__(kind).get("__module__")  # whatever its metaclass says
    where = {"module": _words(module) if isinstance(module, str) else "builtins"}
    return where | ({"kind": ours} if ours not in ("", "AiosError") else {})


def _detail(error: BaseException) -> dict[str, Any]:
    try:
        if isinstance(error, JobFailed):
            return {"job": _plain(error.job_id), "error": to_record(error.error)}
        if not isinstance(error, StepError):
            return {}
        found, room = {_words(str(k)): _plain(v) for k, v in error.detail.items()}, MESSAGE_LIMIT
        for name, value in list(found.items()):
            room -= len(repr(value))
            if room < 0:  # the error itself must stay within what is kept of a job
                room += len(repr(value))
                found[name] = "(too long to be kept)"
        return found
    except BaseException:  # the user's own objects, or a class that leaves its detail out
        return {}


def _plain(value: Any, depth: int = 4) -> Any:
    """The value, with everything in it that is not JSON put into words."""
    if isinstance(value, int) and value.bit_length() > 10_000:
        return f"(a number of {value.bit_length():,} bits)"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict) and depth:
        return {_words(str(k)): _plain(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [_plain(v, depth - 1) for v in value]
    return _words(value if isinstance(value, str) else repr(value))


def _words(text: str) -> str:
    return hide(str.encode(text, "utf-8", "backslashreplace").decode())


def class_of(record: dict[str, Any]) -> str:
    """The class of a journaled error, for people: one that is not ours, nor Python's, with its module."""
    name, module = str(record.get("type", "Error")), record.get("module")
    return f"{module}.{name}" if module not in (None, "builtins") else name


def from_record(record: dict[str, Any]) -> Exception:
    """The error of a journaled record, of the class that the agent saw at its await.

    A class of the agent's own comes back as the one of ours that it is derived from, else as ``StepError``;
    ``detail["error"]`` is its name, with its module.
    """
    name, message = str(record.get("type", "Error")), str(record.get("message", ""))
    detail, module = record.get("detail"), record.get("module")
    known = {str(k): v for k, v in detail.items()} if isinstance(detail, dict) else {}
    if module is None:
        cls = _BY_NAME.get(name)
    else:  # one of the same name, elsewhere
        cls = _BY_NAME.get(str(record.get("kind")), StepError)
        known.setdefault("error", class_of(record))
    if module is not None or cls is None:
        message = f"{name}: {message}" if message else name
    if cls is JobFailed and isinstance(known.get("error"), dict):
        return JobFailed(str(known.get("job")), from_record(known["error"]))
    if cls is None or cls is JobFailed:
        cls = StepError
    error = cls(message, **known) if issubclass(cls, StepError) else cls(message)
    vars(error)["traceback"] = str(record.get("traceback") or "")
    return error
