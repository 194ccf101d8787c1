"""The options of a call of a model: what each may be, said in one sentence where it is given.

An option that is not known here is a provider's own, and passes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from aios_dist.model.given import LONGEST_S, short

Check = Callable[[Any], bool]

OURS = ("prompt", "messages", "system", "model", "temperature", "max_tokens", "tools", "response_format")
"""Of ``llm()`` itself: what reads like one of them is one that was misspelt."""

NOT_MISSPELT = ("models", "tool")
"""Options of gateways that read so."""

ELSEWHERE = {
    "api_base": "base_url of its model in aios.toml",
    "api_key": "api_key_env of its model in aios.toml (a request is journaled)",
    "base_url": "base_url of its model in aios.toml",
    "headers": "extra_headers",
    "max_output_tokens": "max_tokens",
    "max_retries": "attempts of its model in aios.toml",
    "num_retries": "attempts of its model in aios.toml",
    "request_timeout": "timeout",
}
"""Options of SDKs' clients and of other protocols, which no body of a request has: what there is instead."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "content-type", "content-encoding", "connection"}
)
"""Headers that say how the request is sent; another value breaks it."""


def _number(least: float, most: float) -> Check:
    def check(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most

    return check


def _whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds)


def _headers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and _HEADER.fullmatch(name)
        and name.lower() not in FRAMING
        and isinstance(text, str)
        and text.isascii()
        and (text.isprintable() or not text)
        for name, text in value.items()
    )


def _body(value: Any) -> bool:
    if not isinstance(value, Mapping) or {"model", "messages"} & set(value):
        return False
    return isinstance(value.get("stream"), (bool, type(None)))


_BOOL = (_is(bool), "True or False")
_INTEGER = (lambda value: type(value) is int, "a whole number")
_TEXT = (_is(str), "text")
_TABLE = (_is(Mapping), "a dict")
_ANY_NUMBER = (_number(-math.inf, math.inf), "a number")
_SHARE = (_number(0, 1), "a number from 0 to 1")

CHECKS: dict[str, tuple[Check, str]] = {
    "timeout": (
        _number(1e-3, LONGEST_S),
        "seconds, more than 0 and at most ten years, that each try of this call may take",
    ),
    "stream": _BOOL,
    "stop": (lambda value: isinstance(value, str) or _texts(value), "text or a list of texts"),
    "stop_sequences": (_texts, "a list of texts"),
    "seed": _INTEGER,
    "n": (_whole(1, 1), "1 (an answer is one; for more, ask more often, in a gather())"),
    "top_p": _SHARE,
    "min_p": _SHARE,
    "top_k": _INTEGER,
    "frequency_penalty": _ANY_NUMBER,
    "presence_penalty": _ANY_NUMBER,
    "repetition_penalty": _ANY_NUMBER,
    "max_completion_tokens": (_whole(1, 10**9), "a whole number from 1 to 1,000,000,000"),
    "logprobs": _BOOL,
    "top_logprobs": (_whole(0, 1000), "a whole number from 0"),
    "logit_bias": _TABLE,
    "metadata": _TABLE,
    "parallel_tool_calls": _BOOL,
    "store": _BOOL,
    "user": _TEXT,
    "reasoning_effort": _TEXT,
    "verbosity": _TEXT,
    "service_tier": _TEXT,
    "prompt_cache_key": _TEXT,
    "safety_identifier": _TEXT,
    "tool_choice": (_is(str, Mapping), "text or a dict"),
    "stream_options": _TABLE,
    "extra_headers": (
        _headers,
        "a dict of names and ASCII texts, without those that say how a request is sent (content-length, …)",
    ),
    "extra_query": _TABLE,
    "extra_body": (_body, "a dict without model and messages, which are llm()'s own"),
}
"""By name: what it may be, and how that is said. None is "not given" for each of them."""


def odd(options: Mapping[str, Any]) -> str:
    """What is wrong with a provider's options, as a sentence; "" where nothing is."""
    for name, value in options.items():
        if value is None:
            continue
        check, words = CHECKS.get(name, (None, ""))
        if check is not None and not (check(value) and value == value):
            secret = name.startswith("extra_")  # may hold keys
            return f"{name} must be {words}" + ("." if secret else f", not {short(value)}.")
    return ""


def odd_extra(extra: Mapping[str, Any]) -> str:
    """What is wrong with what ``llm()`` was given besides its own options, as a sentence; "" for nothing."""
    if said := odd(extra):
        return said
    for name in extra:
        if name == "extra":
            return "options are given by name, as seed=1; there is no extra=."
        if name in ELSEWHERE:
            return f"there is no option {name!r}; what it is for is {ELSEWHERE[name]}."
        if name in CHECKS or name in NOT_MISSPELT:
            continue
        if near := difflib.get_close_matches(name, OURS, n=1, cutoff=0.9):
            return (
                f"there is no option {name!r}; did you mean {near[0]}? "
                "What is the provider's own all the same goes into extra_body."
            )
    return ""


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are sent: without those of :data:`CHECKS` that are None, and without ``timeout``."""
    return {
        name: value
        for name, value in options.items()
        if name != "timeout" and not (value is None and name in CHECKS)
    }
