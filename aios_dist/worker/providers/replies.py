"""An answer as it comes in, before it is an ``LLMResponse``; and what may come in its place."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aios_dist.model.calls import ToolCall, Usage

RAW_LIMIT = 16 * 1024
"""Characters of an unreadable answer that its error keeps, as ``detail["raw"]``."""

RAW_BYTES = RAW_LIMIT + 1024
"""A little more is remembered, so that the bound cuts no secret before it is hidden."""


GIVEN_UP = re.compile(
    r"(?:\w+_)?(?:error|failed|failure)|insufficient_system_resource|abort(?:ed)?|interrupted|exception"
    r"|cancell?ed|time_?out|(?:engine_)?overloaded|.*(?:malformed|unexpected)_(?:\w+_)?(?:call|response)",
    re.IGNORECASE,
)
"""Reasons with which servers end an answer that they could not finish."""


FILTERED = re.compile(
    r"content[_-]?filter(?:ed)?|content_blocked|sensitive|(?:image_)?safety|(?:image_)?prohibited_content"
    r"|(?:image_)?recitation|blocklist|spii|guardrail_intervened|refusal",
    re.IGNORECASE,
)
"""… and with which their filters stop one."""


class Called:
    """A tool's call as it comes in, in however many pieces."""

    __slots__ = ("id", "name", "pieces")

    def __init__(self, id: str, name: str) -> None:
        self.id, self.name = id, name
        self.pieces: list[str] = []  # joined once: a file that a model writes is tens of thousands

    @property
    def arguments(self) -> str:
        """What has come of them."""
        return "".join(self.pieces)


class Reply(ABC):
    """An answer as it comes in; each protocol reads its own bytes.

    ``complete``: the provider said that this was all. ``refused``: why its filter stopped the answer, which
    then becomes ``ContentRefused``.
    """

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, Called] = {}
        self.finish_reason: str | None = None
        self.refused: str | None = None
        self.usage = Usage(calls=1)
        self.model: str | None = None
        self.complete = False
        self.raw = bytearray()

    def count(self, told: Usage) -> None:
        """Take the counts, which are sums so far: some servers end with noughts."""
        known = self.usage
        self.usage = Usage(
            max(known.prompt_tokens, told.prompt_tokens),
            max(known.output_tokens, told.output_tokens),
            calls=1,
            cached_tokens=max(known.cached_tokens, told.cached_tokens),
        )

    def settle(self) -> None:  # noqa: B027
        """All of it has come."""

    def keep(self, piece: bytes) -> None:
        """Remember the beginning of what came in, for an answer that turns out to be unreadable."""
        if len(self.raw) < RAW_BYTES:
            self.raw += piece[: RAW_BYTES - len(self.raw)]

    @abstractmethod
    def whole(self, data: bytes) -> None:
        """Read an answer that did not stream.

        Raises:
            ProviderSaid: it is an error. NoAnswer: nothing of an answer is in it.
            msgspec.DecodeError: it is not of the protocol.
        """

    @abstractmethod
    def event(self, data: bytes) -> bool:
        """Read the data of one event of a stream; True if it was the last. Raises as :meth:`whole` does."""

    def own(self, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """What the provider's own message says beyond text and calls: see ``LLMResponse.own``.

        Args:
            calls: as the answer has them, in the order of ``self.calls``.
        """
        return {}


class Refused(Exception):
    """An answer with another status than 200 and the like.

    Args:
        status, body: as they came.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class ProviderSaid(Exception):
    """An error that came in the place of an answer, or in the midst of one, after the status 200.

    Args:
        status: the HTTP status that it would have had.
        body: what it said, as data or text.
    """

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class NoAnswer(Exception):
    """The status was 200, and what came with it is no answer of a model: empty, or the page of a proxy."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data.decode("utf-8", "replace").strip() or "nothing")


class TooLarge(Exception):
    """More came in than ``answer_limit`` allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than answer_limit ({limit:,} bytes)")


class LineBroke(Exception):
    """There was no connection, or it broke: why, in words."""


class NotHttp(Exception):
    """What came over the connection is not HTTP: why, in words."""
