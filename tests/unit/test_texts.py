"""Documents taken apart and put together: what is shared is stored once, and nothing becomes another."""

from __future__ import annotations

import functools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_dist.model import texts
from aios_dist.model.calls import LLMRequest, LLMResponse, ToolCall
from aios_dist.model.jobs import Outcome, RecordTooLarge, decode, packed
from aios_dist.model.texts import DEEPEST, ROPE, Apart, Reader, address_of, referred, whole


class Table:
    """A job's table."""

    def __init__(self) -> None:
        self.texts: dict[bytes, bytes] = {}

    def put(self, data: bytes, *, request: bool = True) -> tuple[bytes, int]:
        """A document as it is stored, and the bytes that it has cost."""
        apart = Apart(self.texts)
        stored = apart.request(data) if request else apart.document(data)
        assert apart.needs <= self.texts.keys()
        assert not apart.new.keys() & self.texts.keys()
        written = [stored, *apart.new.values()]
        assert apart.needs == {a for one in written for a in referred(one)} - apart.new.keys()
        assert apart.texts() == [part for pair in apart.new.items() for part in pair]
        assert apart.texts() == [], "they were given"
        self.texts |= apart.new
        return stored, len(stored) + sum(len(a) + len(text) for a, text in apart.new.items())


@functools.cache
def words(seed: int, size: int) -> str:
    return "".join(random.Random(seed).choices('abcdefghij \n"\\é€', k=size))


def asks(messages: list[dict[str, Any]], **more: Any) -> bytes:
    return msgspec.json.encode(LLMRequest(messages=messages, **more))


def said(number: int, size: int = 4000) -> dict[str, Any]:
    return {"role": "user", "content": words(number, size)}


keys = st.text(max_size=8) | st.sampled_from(["k" * 600, "\\" * 600])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=2000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)
messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "x"]), values), max_size=6
) | st.lists(
    st.integers(0, 99).map(lambda n: {"role": "user", "content": f"{n}" * (1 + n * 10)}), max_size=200
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(messages, min_size=1, max_size=3), values, st.lists(st.dictionaries(st.text(), values)))
def test_what_is_put_together_is_what_was_taken_apart(
    asked: list[list[dict[str, Any]]], extra: Any, tools: list[dict[str, Any]]
) -> None:
    table = Table()
    data = [asks(one, tools=tools, extra={"a": extra}) for one in asked]
    stored = [table.put(one)[0] for one in data]
    reader = Reader(table.texts)
    for one, kept in zip(data, stored, strict=True):
        assert whole(kept, table.texts) == one
        assert msgspec.json.encode(reader.read(kept, LLMRequest)) == one
    plain = msgspec.json.encode([asked, extra, tools])
    kept, _ = table.put(plain, request=False)
    assert whole(kept, table.texts) == plain
    assert reader.read(kept, list[Any]) == [asked, extra, tools]


@pytest.mark.parametrize("data", [b'{"messages": [ {"a":1} ], "model": "x"}', b'{"model":"x","messages":[]}'])
def test_json_that_others_wrote_is_kept_as_it_is(data: bytes) -> None:
    long = data[:-1] + b',"extra":{"k":"' + b"x" * 2000 + b'"}}'
    table = Table()
    kept, _ = table.put(long)
    assert kept[:1] == ROPE
    assert whole(kept, table.texts) == long


def test_a_small_document_is_stored_whole() -> None:
    data = asks([{"role": "user", "content": "x" * 900}])
    assert Table().put(data) == (packed(data), len(data) + 1)


def test_a_conversation_that_grows_costs_what_is_new() -> None:
    table, talk, costs = Table(), [said(0)], []
    for turn in range(1, 200):
        talk.append(said(turn))
        costs.append(table.put(asks(talk, model="small"))[1])
    new = len(packed(msgspec.json.encode(words(9, 4000))))
    assert max(costs[2:]) < new + 3000
    assert sum(costs[150:]) < 1.1 * sum(costs[50:99])


def test_a_conversation_of_short_messages_costs_what_is_new() -> None:
    table, talk, costs = Table(), [], []
    for turn in range(1000):
        talk.append({"role": "user", "content": f"message {turn}"})
        costs.append(table.put(asks(talk))[1])
    assert max(costs[700:]) < 5000
    assert sum(costs[700:]) / 300 < 2000


def test_edits_windows_and_summaries_share_what_they_have_in_common() -> None:
    table, talk = Table(), [said(n, 1000) for n in range(500)]
    table.put(asks(talk))
    changed = [*talk[:250], said(1000, 1000), *talk[251:]]
    for other in (changed, talk[7:], [said(2000, 1000), *talk[300:]], talk[:333]):
        kept, cost = table.put(asks(other))
        assert len(kept) < 1500
        assert cost < len(kept) + 3000, "a message, and some runs of addresses"


def test_a_message_whose_marker_moves_costs_its_frame() -> None:
    def marked(number: int, mark: bool) -> dict[str, Any]:
        part = {"type": "text", "text": words(number, 4000)} | (
            {"cache_control": {"type": "x"}} if mark else {}
        )
        return {"role": "user", "content": [part]}

    table, costs = Table(), []
    for turn in range(2, 50):
        talk = [marked(n, n == turn - 1) for n in range(turn)]
        costs.append(table.put(asks(talk))[1])
    assert max(costs[1:]) < len(packed(msgspec.json.encode(words(1, 4000)))) + 2000


def test_an_answer_that_comes_back_as_a_message_is_there_already() -> None:
    table = Table()
    answer = LLMResponse(
        words(1, 3000), [ToolCall("c1", "f", words(2, 2000))], own={"thought": words(3, 900)}
    )
    table.put(msgspec.json.encode(Outcome(response=answer)), request=False)
    before = len(table.texts)
    _, cost = table.put(asks([{"role": "user", "content": "?"}, answer.message]))
    assert len(table.texts) == before + 1  # the message, that refers to them
    assert cost < 400
    table.put(msgspec.json.encode(Outcome(value=words(4, 3000))), request=False)
    before = len(table.texts)
    table.put(asks([{"role": "tool", "tool_call_id": "c1", "content": words(4, 3000)}]))
    assert len(table.texts) == before + 1


def test_tools_and_forms_of_answers_are_stored_once() -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "description": words(n, 300)}} for n in range(9)
    ]
    form = {"type": "json_schema", "json_schema": {"a": words(77, 400), "b": words(78, 400)}}
    table = Table()
    table.put(asks([said(1)], tools=tools, response_format=form))
    data = asks([said(1), said(2)], tools=tools, response_format=form)
    kept, cost = table.put(data)
    assert cost < len(packed(msgspec.json.encode(words(2, 4000)))) + 300
    assert whole(kept, table.texts) == data


def test_the_same_is_the_same_object_where_many_requests_are_read() -> None:
    table, talk, stored = Table(), [], []
    for turn in range(70):
        talk.append(said(turn, 600))
        stored.append(table.put(asks(talk))[0])
    reader = Reader(table.texts)
    first, last = (reader.read(one, LLMRequest) for one in (stored[3], stored[-1]))
    assert first.messages[0]["content"] is last.messages[0]["content"]


def test_text_that_looks_like_an_address_is_text() -> None:
    fake = "\0" + address_of(b"x").hex()
    data = asks([{"role": "user", "content": [fake, fake + "y" * 2000]}, said(3)])
    table = Table()
    kept, _ = table.put(data)
    assert whole(kept, table.texts) == data
    assert Reader(table.texts).read(kept, LLMRequest).messages[0]["content"][0] == fake


def test_a_text_that_is_missing_is_missed() -> None:
    table = Table()
    kept, _ = table.put(asks([said(1), said(2)]))
    (first, *_) = referred(kept)
    del table.texts[first]
    with pytest.raises(KeyError):
        whole(kept, table.texts)
    with pytest.raises(KeyError):
        Reader(table.texts).read(kept, LLMRequest)


def test_texts_that_were_tampered_with_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = {bytes([n]) * 16: ROPE + b"\0" + bytes([n + 1]) * 16 for n in range(DEEPEST + 2)}
    with pytest.raises(RecordTooLarge, match="deep"):
        whole(ROPE + b"\0" + bytes(16), deep)
    with pytest.raises(RecordTooLarge, match="deep"):
        Reader(deep).read(ROPE + b"\0" + bytes(16), list)
    monkeypatch.setattr(texts, "MOST_RECORD", 1_000_000)
    empty = {bytes([n]) * 16: ROPE + (b"\0" + bytes([n + 1]) * 16) * 1000 for n in range(6)}
    empty[bytes([6]) * 16] = b"j"
    for begins in (b"", b'{"messages":['):
        with pytest.raises((RecordTooLarge, msgspec.DecodeError)):
            whole(ROPE + begins + b"\0" + bytes(16), empty)
        with pytest.raises((RecordTooLarge, msgspec.DecodeError)):
            Reader(empty).read(ROPE + begins + b"\0" + bytes(16), LLMRequest)
    lists = {
        bytes([n]) * 16: ROPE + b"[" + b",".join([b"\0" + bytes([n + 1]) * 16] * 999) + b"]" for n in range(6)
    }
    lists[bytes([6]) * 16] = packed(b"[1]")
    for kind in (list, dict, LLMRequest):
        with pytest.raises((RecordTooLarge, msgspec.ValidationError)):
            Reader(lists).read(ROPE + b"\0" + bytes(16), kind)
    with pytest.raises(RecordTooLarge):
        whole(ROPE + b"\0" + bytes(16), lists)
    wide = {b"a" * 16: packed(b'"' + b"x" * 250_000 + b'"')}
    bomb = ROPE + b"[" + b",".join([b"\0" + b"a" * 16] * 9) + b"]"
    with pytest.raises(RecordTooLarge, match="bytes"):
        whole(bomb, wide)


def test_what_refers_to_nothing_is_read_as_ever() -> None:
    assert referred(packed(b"[1]")) == []
    assert Reader({}).read(packed(b"[1]"), list) == decode(packed(b"[1]"), list) == [1]
    assert whole(packed(b'"' + b"x" * 5000 + b'"'), {}) == b'"' + b"x" * 5000 + b'"'


def test_what_is_nested_deeper_than_python_goes_is_read_as_ever() -> None:
    deep: Any = words(1, 900)
    for _ in range(900):
        deep = [deep]
    data = asks([{"role": "user", "content": deep}])
    table = Table()
    kept, _ = table.put(data)
    assert whole(kept, table.texts) == data
    assert msgspec.json.encode(Reader(table.texts).read(kept, LLMRequest)) == data


def test_a_value_of_very_many_things_is_read_as_ever() -> None:
    many = [*range(texts.MOST_VISITED + 10), words(1, 900)]
    table = Table()
    for data, kind in (
        (msgspec.json.encode(Outcome(value=many)), Outcome),
        (asks([{"role": "user", "content": many}, said(2)]), LLMRequest),
    ):
        kept, _ = table.put(data, request=kind is LLMRequest)
        assert kept[:1] == ROPE
        assert msgspec.json.encode(Reader(table.texts).read(kept, kind)) == data


def test_of_very_many_strings_or_messages_only_what_pays_is_a_text() -> None:
    table = Table()
    data = msgspec.json.encode([words(n % 7, 600) + f"{n}" for n in range(1100)] + [words(9, 9000)])
    kept, _ = table.put(data, request=False)
    assert len(table.texts) == 1
    assert whole(kept, table.texts) == data
    many = asks(
        [
            {"role": "user", "content": f"a message of some length, number {n}, and more"}
            for n in range(20_001)
        ]
    )
    kept, _ = table.put(many)
    assert len(table.texts) == 1
    assert whole(kept, table.texts) == many


def test_a_request_with_more_strings_than_one_document_may_have_is_read() -> None:
    parts = [{"type": "text", "text": f"{n} " + "x" * 600} for n in range(5)]
    talk = [{"role": "user", "content": parts, "n": n} for n in range(9_000)]
    data = asks(talk)
    table = Table()
    kept, _ = table.put(data)
    assert len(table.texts) == 0
    assert whole(kept, table.texts) == data
