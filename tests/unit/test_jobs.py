"""Records: what the journal keeps of steps and jobs, and which changes of state there are."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.config import PromptsConfig
from aios_dist.errors import RateLimited, StepError, ToolError
from aios_dist.journal.records import pack_record, unpack_record
from aios_dist.model.calls import LLMRequest, LLMResponse, Timings, ToolCall, ToolRequest, Usage
from aios_dist.model.jobs import (
    COMPRESS_ABOVE,
    DIGEST,
    JOB_CHANGES,
    STEP_CHANGES,
    TURN,
    JobRecord,
    JobState,
    Kind,
    Outcome,
    StepState,
    decode,
    digest,
    encode,
)

texts = st.text(max_size=50)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
objects = st.dictionaries(texts, json_values, max_size=3)
requests = st.one_of(
    st.builds(
        LLMRequest,
        messages=st.lists(objects, max_size=3),
        model=st.none() | texts,
        temperature=st.none() | st.floats(0, 2),
        max_tokens=st.none() | st.integers(0, 10**6),
        tools=st.none() | st.lists(objects, max_size=2),
        response_format=st.none() | objects,
        extra=objects,
    ),
    st.builds(ToolRequest, name=texts, args=st.lists(json_values, max_size=3), kwargs=objects),
)
outcomes = st.one_of(
    st.builds(Outcome, value=json_values),
    st.builds(
        Outcome,
        response=st.builds(
            LLMResponse,
            text=st.text(),
            tool_calls=st.lists(st.builds(ToolCall, texts, texts, texts), max_size=2),
            finish_reason=st.none() | texts,
            usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)),
            timings=st.builds(Timings, st.floats(0, 9), st.none() | st.floats(0, 9)),
        ),
    ),
    st.builds(lambda message, detail: Outcome.failed(RateLimited(message, **detail)), texts, objects),
)


@given(requests)
def test_a_request_comes_back_from_the_journal_as_it_was(request: LLMRequest | ToolRequest) -> None:
    assert decode(encode(request), type(request)) == request


@given(outcomes)
def test_an_outcome_comes_back_from_the_journal_as_it_was(outcome: Outcome) -> None:
    assert decode(encode(outcome), Outcome) == outcome


@given(st.text(max_size=3000))
def test_only_what_is_above_the_threshold_is_compressed(text: str) -> None:
    plain = msgspec.json.encode(text)
    kept = encode(text)
    assert kept[:1] == (b"z" if len(plain) > COMPRESS_ABOVE else b"j")
    assert kept[:1] == b"z" or kept[1:] == plain, "people read journals with other tools"
    assert decode(kept, str) == text


def test_the_threshold_is_exact() -> None:
    assert encode("x" * (COMPRESS_ABOVE - 2))[:1] == b"j"
    assert encode("x" * (COMPRESS_ABOVE - 1))[:1] == b"z"
    assert len(encode("x" * 1_000_000)) < 10_000


def test_digests_are_the_same_in_every_process_and_release() -> None:
    """Written down: another value here would break every journal that is under way."""
    assert digest(b"") == "b8e1dda3ac0aa3820ad2990b"
    assert digest(b"aios") == "1f07580e2c3f53f9df3bb8e9"
    assert JobRecord("trip", {"b": [1, None], "a": "x"}).digest() == "deac9d79ca27357168aa5cda"
    assert JobRecord("trip", {"a": "x", "b": [1, None]}).digest() == "deac9d79ca27357168aa5cda"
    data = JobRecord("a", {"x": 1}, prompts=PromptsConfig(["{x}"], model="small"))
    assert data.digest() == "0115b528c3cdc5ad7c9f2d7f"


@pytest.mark.parametrize(
    "other",
    [
        JobRecord("tour", {"a": 1}),
        JobRecord("trip", {"a": 2}),
        JobRecord("trip", {"a": 1, "b": None}),
        JobRecord("trip", {"a": "1"}),
        JobRecord("trip", {"a": 1}, tenant="other"),
        JobRecord("trip", {"a": 1}, prompts=PromptsConfig(["x"])),
    ],
)
def test_a_submission_that_differs_has_another_digest(other: JobRecord) -> None:
    assert other.digest() != JobRecord("trip", {"a": 1}).digest()


def test_a_record_survives_the_journal_with_its_digest() -> None:
    record = JobRecord("trip", {"x": ["ünï", None]}, "acme", PromptsConfig(["{input}"], model="small"))
    back = decode(encode(record), JobRecord)
    assert back == record
    assert back.digest() == record.digest()


def test_the_journal_keeps_a_record_behind_its_digest() -> None:
    record = JobRecord("trip", {"x": "y" * 5000}, "acme", PromptsConfig(["{input}"]))
    kept = pack_record(record)
    assert kept[:DIGEST].decode() == record.digest()
    assert unpack_record(kept) == record


def test_what_an_agent_that_is_data_leaves_out_is_not_kept() -> None:
    assert encode(PromptsConfig(["{x}"])) == b'j{"prompts":["{x}"]}'


def test_a_field_that_a_later_release_adds_does_not_break_this_one() -> None:
    assert decode(b'j{"agent":"a","input":{},"since":"2"}', JobRecord) == JobRecord("a", {})
    assert decode(b'j{"value":1,"cost":3}', Outcome) == Outcome(value=1)


def test_an_outcome_gives_what_the_await_gives() -> None:
    response = LLMResponse(text="hi", usage=Usage(1, 2, 1))
    assert Outcome(response=response).result() is response
    assert (Outcome(response=response).ok, Outcome(response=response).usage.total_tokens) == (True, 3)
    assert Outcome(value=[1]).result() == [1]
    assert Outcome().result() is None
    assert Outcome(value=1).usage == Usage()
    failed = Outcome.failed(ToolError("broken", error="KeyError"))
    assert not failed.ok
    with pytest.raises(ToolError, match="broken") as caught:
        failed.result()
    assert caught.value.detail == {"error": "KeyError"}


def test_each_reading_of_a_failed_outcome_raises_a_new_error() -> None:
    failed = Outcome.failed(ToolError("broken"))
    raised = []
    for _ in range(2):
        with pytest.raises(StepError) as caught:
            failed.result()
        raised.append(caught.value)
    assert raised[0] is not raised[1], "a shared one would gather the tracebacks of all who raise it"


# States ---------------------------------------------------------------------------------------------------


def reachable(table: dict[Any, frozenset[Any]], start: set[Any]) -> set[Any]:
    found, grown = set(start), True
    while grown:
        more = set().union(*(table[s] for s in found)) - found
        grown = bool(more)
        found |= more
    return found


def test_every_state_has_its_row_and_none_leads_to_itself() -> None:
    assert set(JOB_CHANGES) == set(JobState)
    assert set(STEP_CHANGES) == set(StepState)
    for table in (JOB_CHANGES, STEP_CHANGES):
        assert all(state not in after for state, after in table.items())


def test_every_state_can_be_reached() -> None:
    assert reachable(JOB_CHANGES, {JobState.WAITING}) == set(JobState)
    assert reachable(STEP_CHANGES, {StepState.PENDING}) == set(StepState)


def test_nothing_leads_out_of_an_end_but_a_retry() -> None:
    """``retry`` is asked for by a person, of what failed or was cancelled; what is done stays done."""
    assert {s for s in JobState if s.ended} == {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
    assert {s: JOB_CHANGES[s] for s in JobState if s.ended} == {
        JobState.DONE: frozenset(),
        JobState.FAILED: {JobState.RUNNING},
        JobState.CANCELLED: {JobState.RUNNING},
    }


def test_nothing_leads_out_of_a_step_that_came_to_its_end_but_a_retry() -> None:
    waits_again = {StepState.READY, StepState.TIMED, StepState.WAITING}
    assert STEP_CHANGES[StepState.DROPPED] == {StepState.DONE, StepState.FAILED} | waits_again, "paid: kept"
    assert StepState.DROPPED in STEP_CHANGES[StepState.LEASED], "its job ended while it was called"


def test_an_answer_is_never_taken_back_and_a_failure_only_by_a_retry() -> None:
    assert STEP_CHANGES[StepState.DONE] == frozenset()
    assert STEP_CHANGES[StepState.FAILED] == {StepState.READY}, "what waits for time or a signal cannot fail"


# The Lua verbs speak of the same states ---------------------------------------------------------------------

LUA = {
    file.name: re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
    for file in resources.files("aios_dist.journal").joinpath("lua").iterdir()
    if file.name.endswith(".lua")
}
TURN_ONLY = {"idle"}
"""The head of a job's turn rests in this state; it is no step of the program."""


def words(*patterns: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, text in LUA.items():
        for pattern in patterns:
            for match in re.finditer(pattern, text):
                for word in match.groups():
                    if word:
                        found.setdefault(word, set()).add(name)
    return found


def test_every_state_of_a_step_in_the_verbs_is_in_the_table() -> None:
    used = words(r"h\[H\.state\]\s*[=~]=?\s*'(\w+)'", r"h\[H\.state\] = \w+ and '(\w+)' or '(\w+)'")
    assert set(used) - TURN_ONLY <= set(StepState), used
    assert {"ready", "leased", "done", "failed", "dropped", "pending"} <= set(used)


def test_every_state_of_a_job_in_the_verbs_is_in_the_table() -> None:
    used = words(
        r"facts\[1\]\s*[=~]=\s*'(\w+)'",
        r"'st'\)\s*[=~]=\s*'(\w+)'",
        r"end_job\([^,]+,\s*'(\w+)'",
        r"apply_turn\([^)]*'(\w+)'\)",
    )
    assert set(used) <= set(JobState), used
    assert {"running", "waiting", "cancelled"} <= set(used)


def test_no_verb_writes_a_state_that_python_does_not_know() -> None:
    """All quoted words that are put where a state stands, of jobs, steps and plans."""
    written = words(r"'HSET',[^)\n]*'st',\s*'(\w+)'", r"\[H\.state\]\s*=\s*'(\w+)'", r"put\([^)]*'(\w+)'")
    assert set(written) - TURN_ONLY <= {*StepState, *JobState}, written


def test_the_turn_has_one_name_on_both_sides() -> None:
    assert words(r"local TURN = '(\w+)'") == {TURN: {"_lib.lua"}}
    assert {"turn"} <= set(words(r"\{ '(turn)'"))
    assert Kind.TURN.value == "turn"
