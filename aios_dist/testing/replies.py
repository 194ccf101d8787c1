"""What the fake LLM says: the records of what was asked and is answered, and the seeded replies."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aios_dist.testing.latency import Distribution

Json = dict[str, Any]

compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_canonical = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode

# Three letters and a space are four characters: a word is a token where tokens are counted as characters / 4.
_WORDS = tuple(
    a + b + c for a in "bdfklmnprstvzhgj" for b, c in zip("aeiouaeiouaeioua", "nlrstmnlrstmnlrs", strict=True)
)


class BadRequest(Exception):
    """The request cannot be answered: ``status``, a sentence, and the field that is wrong, if one is."""

    def __init__(self, status: int, sentence: str, param: str | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.param = status, sentence, param


@dataclass(frozen=True, slots=True)
class Asked:
    """What all protocols' requests have in common. ``messages`` as they came, a system prompt first."""

    model: str
    messages: tuple[Json, ...]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the reply asks for. ``arguments``: a mapping, or the JSON text itself, which may be wrong."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = ""

    @property
    def arguments_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else compact(dict(self.arguments))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``finish_reason`` in OpenAI's words, ``latency`` in seconds; None: as the server has it."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    completion_tokens: int | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tool_calls", tuple(self.tool_calls))

    @property
    def tokens(self) -> int:
        """The tokens of the answer: as given, else a quarter of its characters, and at least 1."""
        if self.completion_tokens is not None:
            return self.completion_tokens
        calls = sum(len(call.name) + len(call.arguments_text) for call in self.tool_calls)
        return max(1, -(-(len(self.text) + calls) // 4))

    @property
    def finish(self) -> str:
        """The finish reason in OpenAI's words."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


def fingerprint(seed: int, messages: Sequence[Json]) -> bytes:
    """16 bytes that stand for these messages under this seed."""
    digest = hashlib.blake2b(_canonical(messages).encode(), digest_size=16, key=str(seed).encode()[:64])
    return digest.digest()


def draws(print_: bytes, repeat: int) -> tuple[float, float]:
    """Two numbers in (0, 1), for the fault and the latency of the ``repeat``-th call with these messages."""
    raw = hashlib.blake2b(print_ + b"%d" % repeat, digest_size=16).digest()
    return _open_unit(raw[:8]), _open_unit(raw[8:])


def seeded(print_: bytes, output_tokens: Distribution, max_tokens: int | None, as_json: bool) -> Reply:
    """The reply that follows from a fingerprint: ``output_tokens`` words, ``max_tokens`` at most."""
    u = _open_unit(hashlib.blake2b(print_, digest_size=8).digest())
    wanted = max(1, round(output_tokens.draw(u)))
    tokens = wanted if max_tokens is None else min(wanted, max_tokens)
    text = " ".join(_WORDS[byte] for byte in hashlib.shake_128(print_).digest(tokens))
    if as_json:
        text = compact({"text": text})
    return Reply(text, finish_reason="length" if tokens < wanted else "stop", completion_tokens=tokens)


def prompt_tokens(messages: Sequence[Json]) -> int:
    """A quarter of the characters of all messages' text, rounded up, and at least 1."""
    return max(1, -(-sum(len(text_of(message)) for message in messages) // 4))


def text_of(message: Json) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ""


def pieces_of(text: str, tokens: int, per_piece: int) -> list[str]:
    """Cut a text into the pieces a stream sends, each of about ``per_piece`` of its ``tokens`` tokens."""
    count = min(max(1, -(-tokens // per_piece)), len(text))
    return [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]


def check_key(key: str | None, headers: dict[str, str]) -> None:
    """``BadRequest`` 401 unless the request carries ``key``, as the providers' clients send it."""
    if key is None:
        return
    given = headers.get("authorization", "").removeprefix("Bearer ").strip()
    given = given or headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")
    if not hmac.compare_digest(given.encode(), key.encode()):
        raise BadRequest(401, "Incorrect API key provided." if given else "You didn't provide an API key.")


def _open_unit(raw: bytes) -> float:
    """A number in (0, 1), both ends excluded, from 8 bytes."""
    return ((int.from_bytes(raw, "big") >> 12) + 0.5) / 2**52
