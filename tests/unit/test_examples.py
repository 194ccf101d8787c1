"""What the examples do that their words promise."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.model.specs import Program
from aios_dist.program import turns
from aios_dist.program.commands import LLM, Signal, Tool
from aios_dist.program.turns import Catalog
from examples.approval import letter, send

CATALOG = Catalog({"small": "llm"}, "small", 10_000, 10_000)


def asked_after(*outcomes: Any) -> list[Any]:
    """What the letter's agent has asked for once these have come: texts of the model, words of the reader."""
    program: Program = functools.partial(letter.function, to="Ada", about="the engine")
    replay = turns.start(program, CATALOG)
    for number, value in enumerate(outcomes):
        text = isinstance(value, str)
        replay.deliver(number, Outcome(response=LLMResponse(text=value)) if text else Outcome(value=value))
    commands = [asked.command for asked in replay.asked]
    replay.close()
    return commands


def test_a_word_that_was_meant_for_one_draft_sends_no_other() -> None:
    draft, review, again, waits = asked_after("a draft", {"ok": False, "wish": "shorter"}, "another")
    assert isinstance(draft, LLM)
    assert isinstance(again, LLM)
    assert [c.request.name for c in (review, waits) if isinstance(c, Signal)] == ["review-1", "review-2"]


@pytest.mark.parametrize("runs", [1, 2])
def test_a_letter_that_is_sent_again_is_the_same_letter(runs: int) -> None:
    *_, sent = asked_after("a draft", {"ok": True})
    assert isinstance(sent, Tool)
    assert len({send(*sent.request.args, **sent.request.kwargs) for _ in range(runs)}) == 1
    assert "Ada/the engine/1" in send(*sent.request.args, **sent.request.kwargs)
