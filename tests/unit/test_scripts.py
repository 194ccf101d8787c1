"""The loader of the Lua verbs: each is called with the fields that its own header names."""

from __future__ import annotations

import inspect
import re
import shutil
from importlib import resources

import msgpack
import pytest

from aios_dist.config import ModelConfig
from aios_dist.journal import Limits, heads, journal
from aios_dist.journal.heads import Head, unpack_head
from aios_dist.journal.scripts import PARTS, Script, load, parts_of
from tests import lua

LUA = resources.files("aios_dist.journal").joinpath("lua")
VERBS = tuple(load())
HEADER = "-- try: a verb.\n-- ARGV 1: job, step\n-- returns: nothing\n"


def test_every_file_is_a_verb_or_a_part() -> None:
    files = {f.name.removesuffix(".lua") for f in LUA.iterdir() if f.name.endswith(".lua")}
    assert files == {*VERBS, *(f"_{part}" for part in PARTS)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_takes_and_returns(verb: str) -> None:
    text = LUA.joinpath(f"{verb}.lua").read_text(encoding="utf-8")
    header = text.split("\nlocal ")[0]
    assert header.startswith(f"-- {verb}: ")
    assert "\n-- ARGV 1: " in header
    assert "\n-- returns: " in header


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_uses_the_fields_of_its_header_and_no_others(verb: str) -> None:
    script = load()[verb]
    own = LUA.joinpath(f"{verb}.lua").read_text(encoding="utf-8")
    if verb == "onward":  # what it does itself; what it calls has its own fields
        used = set(re.findall(r"\basked\.(\w+)", own)) | {"retention_ms"}
        assert used == script.fields
        return
    used = set(re.findall(r"\bA\.(\w+)", re.sub(r"--.*", "", script.source)))
    optional = {"retention_ms"}  # used by the shared part about jobs that end
    assert used <= script.fields | optional
    assert script.fields - set(re.findall(r"\bA\.(\w+)", own)) <= optional | {"decision", "jobs", "plan"}
    if "A.retention_ms" in script.source:
        assert "retention_ms" in script.fields, "whatever may end a job must know how long it is kept"


def test_the_journal_gives_every_verb_its_fields() -> None:
    """Read from the calls in the journal's source: pack() would find out only when the verb is run."""
    source = inspect.getsource(journal)
    called = set(re.findall(r"_run\(\s*\"(\w+)\"", source))
    assert called <= set(VERBS)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "['job', 'step']"),
        ({"job": "a"}, "['step']"),
        ({"job": "a", "step": "0", "setp": 1}, "['setp']"),
    ],
)
def test_fields_that_the_header_does_not_name_are_refused(fields: dict[str, str], wrong: str) -> None:
    with pytest.raises(TypeError, match=r"try.lua takes \['job', 'step'\]") as caught:
        Script("try", HEADER + "\nreturn 1", str).pack(fields)
    assert wrong in str(caught.value)


def test_a_verb_is_packed_without_the_type_that_redis_does_not_know() -> None:
    script = Script("try", HEADER + "\nreturn 1", str)
    packed = script.pack({"job": "ünï", "step": b"\x00\xff"})
    assert msgpack.unpackb(packed, raw=True) == {b"job": "ünï".encode(), b"step": b"\x00\xff"}
    assert not any(byte in packed for byte in (0xC4, 0xC5, 0xC6))


@pytest.mark.parametrize(
    "text",
    [
        "return 1",
        "-- other: a verb.\n-- ARGV 1: job\n\nreturn 1",
        "-- try: a verb.\n-- returns: nothing\n\nreturn 1",
        "\n-- try: a verb.\n-- ARGV 1: job\n\nreturn 1",
    ],
)
def test_a_verb_without_its_header_does_not_load(text: str) -> None:
    with pytest.raises(ValueError, match=r"try\.lua must begin with"):
        Script("try", text, str)


def test_a_part_is_put_in_with_all_that_it_uses_where_it_is_asked_for() -> None:
    plain = Script("try", HEADER + "\nreturn 1", "-- part {}".format)
    with_plan = Script("try", HEADER + "-- include: plan, mend\n\nreturn 1", "-- part {}".format)
    assert re.findall("-- part (.+)", plain.source) == ["_lib"]
    found = re.findall("-- part _(.+)", with_plan.source)
    assert found == parts_of(["mend"]) == [part for part in PARTS if part in found]
    assert "guarded(verb)" in with_plan.source, "what it breaks it puts right"
    assert "guarded(verb)" not in plain.source
    assert plain.sha != with_plan.sha
    assert re.fullmatch("[0-9a-f]{40}", plain.sha)


def test_a_part_that_is_none_does_not_load() -> None:
    with pytest.raises(ValueError, match=r"no part _nothing\.lua"):
        Script("try", HEADER + "-- include: nothing\n\nreturn 1", str)


def test_lua_and_python_name_the_entries_of_a_head_alike() -> None:
    text = heads.lua()
    entries = dict(re.findall(r"(\w+) = (\d+)", text[: text.index("}")]))
    assert [*entries] == [*Head.__struct_fields__]
    assert [int(place) for place in entries.values()] == [*range(1, len(entries) + 1)]
    assert [*entries][:3] == ["kind", "lane", "state"], "where _mend.lua reads the state of a packed head"


def test_what_may_be_absent_from_a_head_is_not_asked_for() -> None:
    """Neither in Python nor in Lua: heads of earlier versions are read."""
    text = heads.lua()
    tested = {
        int(place)
        for place in re.findall(r"h\[(\d+)\] < INF|type_of\(h\[(\d+)\]\)", text)
        for place in place
        if place
    }
    assert tested == {*range(1, Head.__struct_fields__.index("first") + 2)}
    assert "h[28] = h[28] or 0" in text
    packed = msgpack.packb(
        ["llm", "a", "ready", 0, 0, 0, 0, 0, 0, 0, 0, "", "", "m", 0, 0, 0, 0, 0, 0, "", "", 0, 0, 0, "", 0]
    )
    old = unpack_head(packed)
    assert (old.first, old.passed, old.rejected, old.once) == (0, None, None, None)


@pytest.mark.skipif(shutil.which("luacheck") is None, reason="luacheck is not installed")
def test_what_is_wrong_in_the_lua_is_found() -> None:
    files = lua.texts()
    planted = {
        "cancel": ("return { 'ended'", "nothing()\nreturn { 'ended'"),
        "counts": ("-- include: waiting", "-- include: waiting, order"),
        "_again": ("start_over(h)", "start_over(h, allowed)"),
        "_order": ("local function exact(n)", "local function unused() end\nlocal function exact(n)"),
        "renew": ("local lost = {}", "local lost, P = {}, 1"),
    }
    for name, (old, new) in planted.items():
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)
    found = "\n".join(lua.wrong(files))
    for line in (
        r"cancel\.lua:\d+: accessing undefined variable 'nothing'",
        r"counts\.lua says that it uses _order\.lua and does not$",
        r"_again\.lua uses _limits\.lua and does not say so$",
        r"_order\.lua:\d+: unused function 'unused'",
        r"renew\.lua:\d+: shadowing upvalue 'P' of _lib\.lua:\d+",
    ):
        assert re.search(rf"^{line}", found, re.MULTILINE), (line, found)


def test_what_stands_in_lua_and_in_python_is_the_same() -> None:
    found = re.search(
        r"^local FALLBACK_AFTER = (\d+)", LUA.joinpath("_limits.lua").read_text("utf-8"), re.MULTILINE
    )
    assert found is not None
    assert int(found[1]) == ModelConfig().fallback_after * 1e6 == Limits().fallback_after * 1e6
