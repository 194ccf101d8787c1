"""Texts of others: in one line, in their own order, and nothing that a terminal obeys."""

from __future__ import annotations

import json

import pytest

from aios_dist.cli.output import error_line, plain
from aios_dist.errors import JobFailed
from aios_dist.text.lines import escaped, fields_line, harmless, one_line
from aios_dist.text.tracebacks import user_traceback
from aios_dist.worker.rows import End

ORDERS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("sign", ORDERS)
def test_what_changes_the_order_of_signs_is_shown_as_what_it_is(sign: str) -> None:
    assert harmless(f"a{sign}b") == plain(f"a{sign}b") == error_line(f"a{sign}b") == "a\ufffdb"


def test_a_text_of_people_is_left_as_it_is() -> None:
    text = "Straße, 東京, עברית, 👩\u200d🚀\tx\ny"
    assert harmless(text) == text


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\n \n\t"]
)
def test_an_error_is_one_line_whatever_ends_its_lines(end: str) -> None:
    assert one_line(f"first{end}second") == error_line(f"first{end}second") == "first second"


def test_a_line_is_cut_where_it_is_too_long() -> None:
    assert one_line("x" * 10, 10) == "x" * 10
    assert one_line("x" * 11, 10) == "x" * 9 + "…"


def test_fields_are_one_line_that_a_program_reads() -> None:
    said = {"job": "x", "traceback": '  File "a.py", line 1\n    y("é")'}
    line = fields_line(said)
    assert "\n" not in line
    assert json.loads(line) == said


ACTS = "first\nsecond\u202egnp.exe\x1b[31m\x9b2J"


def test_a_document_says_the_same_and_nothing_in_it_acts() -> None:
    document = escaped(json.dumps({"é": ACTS}, ensure_ascii=False, indent=2))
    assert json.loads(document) == {"é": ACTS}
    assert document == harmless(document)
    assert "é" in document


def test_an_error_that_is_printed_and_its_traceback_do_not_act() -> None:
    try:
        raise ExceptionGroup(ACTS, [ValueError(ACTS)])
    except ExceptionGroup as exc:
        failed, frames = str(JobFailed("x", exc)), user_traceback(exc)
    assert "first second\ufffdgnp.exe" in failed
    assert "second\ufffdgnp.exe" in frames
    told = End.failed({"type": "ValueError", "message": ACTS, "traceback": ACTS}).traceback
    for text in (failed, frames, told):
        assert text == harmless(text)
