"""The tree of errors, and errors as plain data in the journal."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist import errors
from aios_dist.errors import (
    AiosError,
    BadRequest,
    JobFailed,
    LLMError,
    RateLimited,
    ResultTimeout,
    RetryableLLMError,
    StepError,
    ToolError,
    UsageError,
    describe,
    from_record,
    to_record,
)
from aios_dist.text.tracebacks import MESSAGE_LIMIT

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AiosError)]
STEP_ERRORS = [c for c in ALL if issubclass(c, StepError)]


def journaled(error: BaseException) -> Exception:
    return from_record(msgspec.json.decode(msgspec.json.encode(to_record(error))))


def test_the_tree_of_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│ ├└─]*)([A-Z]\w+)\b", line)
        if found is None or found[2] not in {c.__name__ for c in ALL}:
            continue
        depth, name = len(found[1]), found[2]
        above = [(d, n) for d, n in above if d < depth]
        drawn[name] = above[-1][1] if above else ""
        above.append((depth, name))
    real = {c.__name__: c.__bases__[0].__name__ if c is not AiosError else "" for c in ALL}
    assert drawn == real


@pytest.mark.parametrize("cls", STEP_ERRORS, ids=lambda c: c.__name__)
def test_every_step_error_comes_back_from_the_journal_as_itself(cls: type[StepError]) -> None:
    back = journaled(cls("what happened", status=429, nothing=None))
    assert type(back) is cls
    assert str(back) == "what happened"
    assert back.detail == {"status": 429}


@given(
    st.text(),
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)),
)
def test_message_and_detail_survive_whatever_they_are(message: str, detail: dict[str, Any]) -> None:
    back = journaled(ToolError(message, **detail))
    assert isinstance(back, ToolError)
    assert str(back) == message
    assert back.detail == {k: v for k, v in detail.items() if v is not None}


def test_a_detail_may_have_any_name() -> None:
    back = journaled(StepError("text", message="other", self=1))
    assert isinstance(back, StepError)
    assert (str(back), back.detail) == ("text", {"message": "other", "self": 1})


def test_an_error_of_the_agents_own_comes_back_with_its_name() -> None:
    class HotelFull(Exception):
        pass

    back = journaled(HotelFull("no room"))
    assert type(back) is StepError
    assert str(back) == "HotelFull: no room"


class _Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error",
    [
        _Speechless(),
        ValueError("\ud800 lone"),
        FileNotFoundError(2, "gone", "bad\udcff.txt"),
        ToolError("x", thing=object(), deep={"a": [object(), b"x", {"b": {1, 2}}]}, key={1: "\ud800"}),
        KeyboardInterrupt(),
        Exception(b"\xff"),
    ],
)
def test_no_error_is_too_odd_to_be_written(error: BaseException) -> None:
    assert isinstance(journaled(error), Exception)
    assert describe(error).startswith(type(error).__name__)


def test_a_detail_that_contains_itself_can_be_written() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert isinstance(journaled(ToolError("x", circle=circle)), ToolError)


def test_an_error_is_described_in_one_line() -> None:
    assert describe(ValueError("bad")) == "ValueError: bad"
    assert describe(ValueError()) == "ValueError"


def test_what_to_do_about_an_error_is_a_field_that_travels() -> None:
    made = UsageError.with_fix("It is off", "switch it on")
    for error in (made, pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert (type(error), str(error)) == (UsageError, "It is off; switch it on.")
        assert (error.what, error.fix) == ("It is off", "switch it on")
    assert UsageError("It is off.").fix == ""


def test_retryable_is_a_class() -> None:
    assert issubclass(RateLimited, RetryableLLMError)
    assert not issubclass(BadRequest, RetryableLLMError)
    assert issubclass(BadRequest, LLMError)


def test_a_failed_job_says_which_and_why() -> None:
    failed = JobFailed("j-1", RateLimited("slow down"))
    assert str(failed) == "job 'j-1' failed: RateLimited: slow down"
    assert isinstance(failed.error, RateLimited)


def test_errors_fit_pythons_own_where_people_catch_those() -> None:
    assert issubclass(ResultTimeout, TimeoutError)
    assert issubclass(errors.InvalidInput, ValueError)
    assert issubclass(errors.UnknownName, LookupError)
    assert str(errors.UnknownName("no such thing")) == "no such thing", "not a KeyError, which would quote it"
    assert not issubclass(UsageError, StepError)


def test_a_message_of_any_size_is_cut_in_its_middle_and_is_text() -> None:
    class Other(str):
        def encode(self, *_: object) -> Any:
            return self

        def decode(self) -> Any:
            return 5

    class Odd(Exception):
        def __str__(self) -> str:
            return Other("words")

    assert to_record(Odd())["message"] == "words"
    message = to_record(ValueError("a" * 10**6 + "z" * 10**6))["message"]
    assert len(message) < MESSAGE_LIMIT + 100
    assert message.startswith("aaa")
    assert message.endswith("zzz")
    assert "1,934,464 characters" in message


def test_a_class_of_the_agents_own_that_is_called_as_one_of_ours_is_not_taken_for_it() -> None:
    Twin = type("RateLimited", (Exception,), {"__module__": "shop.orders"})
    back = journaled(Twin("too many orders of this customer"))
    assert type(back) is StepError
    assert str(back) == "RateLimited: too many orders of this customer"
    assert back.detail == {"error": "shop.orders.RateLimited"}
    assert type(journaled(RateLimited("x"))) is RateLimited


def test_a_class_derived_from_one_of_ours_comes_back_as_that_one() -> None:
    Rejected = type("Rejected", (RateLimited,), {"__module__": "shop"})
    back = journaled(Rejected("no", status=429))
    assert type(back) is RateLimited
    assert (str(back), back.detail) == ("Rejected: no", {"status": 429, "error": "shop.Rejected"})


@pytest.mark.parametrize("cls", [c for c in ALL if c is not JobFailed], ids=lambda c: c.__name__)
def test_whatever_of_ours_ends_a_job_is_the_error_of_its_result(cls: type[AiosError]) -> None:
    back = journaled(cls("what happened"))
    assert (type(back), str(back)) == (cls, "what happened")


def test_a_failure_of_another_job_keeps_what_that_one_failed_with() -> None:
    back = journaled(JobFailed("child-1", RateLimited("slow down", status=429)))
    assert isinstance(back, JobFailed)
    assert (back.job_id, type(back.error)) == ("child-1", RateLimited)
    assert type(from_record({"type": "JobFailed", "message": "damaged"})) is StepError


def test_a_record_of_the_release_before_comes_back_as_it_did() -> None:
    back = from_record({"type": "RateLimited", "message": "x", "detail": {"status": 429}})
    assert (type(back), str(back)) == (RateLimited, "x")
    assert str(from_record({"type": "HotelFull", "message": "no room"})) == "HotelFull: no room"


def test_a_detail_of_any_size_does_not_take_the_place_of_the_error() -> None:
    back = journaled(ToolError("too much", status=1, body="x" * 10**6, parts=list(range(10**5)), last="y"))
    assert isinstance(back, ToolError)
    cut = "(too long to be kept)"
    assert back.detail == {"status": 1, "body": cut, "parts": cut, "last": "y"}


class _Without(StepError):
    def __init__(self, reason: str) -> None:  # no super().__init__: there is no detail
        self.reason = reason


class _Meta(type):
    def __hash__(cls) -> int:
        raise ValueError("no hash")

    def __getattribute__(cls, name: str) -> Any:
        raise MemoryError(name)

    def __instancecheck__(cls, other: object) -> bool:
        raise ValueError("no")


class _Strange(Exception, metaclass=_Meta):
    def __getattribute__(self, name: str) -> Any:
        raise MemoryError(name)


class _Ends(StepError):
    @property
    def detail(self) -> Any:  # type: ignore[override]
        raise SystemExit(3)


class _Name(str):
    def __str__(self) -> str:
        raise ValueError("no text")


def _named() -> BaseException:
    return type(_Name("_Named"), (Exception,), {})("no")


@pytest.mark.parametrize(
    "make", [lambda: _Without("no"), lambda: _Strange("no"), lambda: _Ends.__new__(_Ends), _named]
)
def test_no_error_costs_an_answer_because_it_cannot_be_recorded(make: Any) -> None:
    record = to_record(make())
    assert record["type"].startswith("_")
    assert isinstance(from_record(msgspec.json.decode(msgspec.json.encode(record))), StepError)


def test_what_breaks_the_recording_itself_leaves_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> str:
        raise MemoryError

    monkeypatch.setattr(errors, "hide", no_room)
    assert to_record(ValueError("x")) == {
        "type": "ValueError",
        "message": "(it cannot be written: MemoryError)",
        "detail": {},
    }
