"""A conversation is stored once: documents taken apart into texts, and put together again.

A document is JSON. Long strings in it, and the messages of a request, are texts of the job's table: each
stands there once, under its address, the digest of its bytes, and in the document an address stands in its
place. A message, and a run of messages that other requests have as well, may refer to further texts. Nothing
else changes: what is put together is what was taken apart, byte for byte.

Where a conversation is cut does not depend on what came long before or behind, so one that grows, slides, or
is edited in its middle shares nearly all its texts with what it was. An answer's text, or a tool's, is found
again as the content of the next request's message; a message whose cache marker moves, by its content.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from aios_dist.model.calls import LLMRequest
from aios_dist.model.jobs import MOST_RECORD, RecordTooLarge, decode, packed, unpacked

T = TypeVar("T")

ADDRESS = 16
"""Bytes of an address."""


class Sizes(NamedTuple):
    """Where documents are cut.

    Attributes:
        whole: bytes of a document that is not taken apart.
        long: bytes of a string, as JSON, that is a text of its own.
        short: bytes of a message that stands where it is said.
        listed: messages (or runs of them) in a row before they are gathered into runs.
        least, most: messages of a run.
    """

    whole: int = 1024
    long: int = 512
    short: int = 64
    listed: int = 64
    least: int = 4
    most: int = 64


FORMAT = Sizes()
"""Those of the journal: a document that is cut otherwise shares nothing with what is there."""

MOST_MESSAGES = 20_000
"""Of a request whose messages are texts of their own: one verb writes them."""

MOST_QUOTES = 300_000
"""Of such a request: it might have more texts than one reads, see below."""

MOST_STRINGS, LONGER = 1_000, 8192
"""Of a document with more long strings than that only those of so many bytes are texts."""

MOST_VISITED = 200_000
"""Texts, and what they are made of, that one document may have: what stands in Redis may be anything."""

DEEPEST = 8
"""Texts within texts. Runs of runs of 16 messages reach a million messages with five."""

ROPE = b"r"
"""The form of what refers to texts; see :func:`aios_dist.model.jobs.packed` for the others."""

_MARK = b"\0"  # before an address; JSON has no such byte
_REFS = re.compile(rb"\0(.{16})", re.DOTALL)
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BEGINS = b'{"messages":['


class _Parts(msgspec.Struct):
    """What of a request is looked at."""

    messages: list[msgspec.Raw]
    tools: msgspec.Raw = msgspec.Raw(b"")
    response_format: msgspec.Raw = msgspec.Raw(b"")


_PARTS = msgspec.json.Decoder(_Parts)


def address_of(data: bytes) -> bytes:
    """What a text is found by."""
    return hashlib.blake2b(data, digest_size=ADDRESS).digest()


class Apart:
    """Takes documents of one job apart.

    Args:
        there: what the job's table is known to hold.
        sizes: where they are cut.

    Attributes:
        new: texts that are to be written, by address.
    """

    def __init__(self, there: Collection[bytes] = (), sizes: Sizes = FORMAT) -> None:
        self.new: dict[bytes, bytes] = {}
        self._there = there
        self._sizes = sizes
        self._referred: set[bytes] = set()
        self._taken: set[bytes] = set()

    def document(self, data: bytes) -> bytes:
        """JSON as the journal keeps it, its long strings apart."""
        if len(data) <= self._sizes.whole:
            return packed(data)
        return self._stored(self._strings(data))

    def request(self, data: bytes) -> bytes:
        """The same of a request to a model: its messages apart as well."""
        if len(data) <= self._sizes.whole:
            return packed(data)
        if data.count(b'"') > MOST_QUOTES:
            return self.document(data)
        parts = _PARTS.decode(data)
        messages = [bytes(message) for message in parts.messages]
        said = b",".join(messages)
        ends = len(_BEGINS) + len(said)
        odd = not data.startswith(_BEGINS) or data[len(_BEGINS) : ends] != said  # of another hand
        if odd or len(messages) > MOST_MESSAGES:
            return self.document(data)
        pieces = [_BEGINS, b",".join(self._runs(list(map(self._message, messages))))]
        rest = data[ends:]
        for part in (bytes(parts.tools), bytes(parts.response_format)):  # in this order
            before, found, after = rest.partition(part) if len(part) > self._sizes.long else (rest, b"", b"")
            if found:
                pieces += [self._strings(before), self._text(part)]
                rest = after
        return self._stored(b"".join([*pieces, self._strings(rest)]))

    def texts(self) -> list[bytes]:
        """What is to be written since it was asked last, as the verbs take it: address, text, address, …"""
        flat = [part for pair in self.new.items() if pair[0] not in self._taken for part in pair]
        self._taken.update(self.new)
        return flat

    @property
    def needs(self) -> set[bytes]:
        """Addresses that are taken to be there: of what is written now, and refers to them itself."""
        return self._referred - self.new.keys()

    def needed(self) -> bytes:
        """The same as the verbs take it, one behind the other."""
        return b"".join(self.needs)

    def _message(self, data: bytes) -> bytes:
        return data if len(data) <= self._sizes.short else self._text(data)

    def _text(self, data: bytes, apart: Callable[[bytes], bytes] | None = None) -> bytes:
        """The reference to a text, which is written where it is not there."""
        address = address_of(data)
        if address not in self._there and address not in self.new:
            self.new[address] = self._stored((apart or self._strings)(data))
        return _MARK + address

    def _stored(self, rope: bytes) -> bytes:
        if _MARK not in rope:
            return packed(rope)
        self._referred.update(_REFS.findall(rope))
        return ROPE + rope

    def _strings(self, data: bytes) -> bytes:
        pieces, at = [], 0
        spans = [found.span() for found in _STRINGS.finditer(data)]
        spans = [(a, b) for a, b in spans if b - a >= self._sizes.long and data[b : b + 1] not in (b":", b"")]
        if len(spans) > MOST_STRINGS:
            spans = [(a, b) for a, b in spans if b - a >= LONGER]
        for start, end in spans:
            pieces += [data[at:start], self._text(data[start:end], bytes)]
            at = end
        return b"".join([*pieces, data[at:]]) if pieces else data

    def _runs(self, items: list[bytes]) -> list[bytes]:
        """What is said, in runs that other requests have as well, until there are few."""
        least, most = self._sizes.least, self._sizes.most
        while len(items) > self._sizes.listed:
            runs: list[bytes] = []
            run: list[bytes] = []
            for item in items:
                run.append(item)
                if (len(run) >= least and _cuts(item)) or len(run) == most:
                    runs.append(self._text(b",".join(run), bytes))
                    run = []
            if len(runs) + len(run) >= len(items):
                break
            items = [*runs, *run]
        return items


def _cuts(item: bytes) -> bool:
    """Whether a run ends behind it: it does behind one in 16, whichever these are."""
    return (item[-1] if item[:1] == _MARK else zlib.crc32(item)) & 15 == 0


def referred(stored: bytes) -> list[bytes]:
    """The addresses that a document, or a text, as it is stored, refers to."""
    return _REFS.findall(stored, 1) if stored[:1] == ROPE else []


def whole(stored: bytes, texts: Mapping[bytes, bytes]) -> bytes:
    """A document put together.

    Args:
        stored: as the journal keeps it.
        texts: what it refers to, by address, as they are stored.

    Raises:
        KeyError: a text is not there.
        RecordTooLarge: it is larger than any that was taken apart.
        zlib.error: it is none that was.
    """
    pieces: list[bytes] = []
    _put_together(stored, texts, pieces, MOST_RECORD, DEEPEST)
    return b"".join(pieces)


def _put_together(
    stored: bytes, texts: Mapping[bytes, bytes], pieces: list[bytes], room: int, depth: int
) -> int:
    """Adds the pieces of a document; gives how much room they leave."""
    if len(pieces) > MOST_VISITED:
        raise RecordTooLarge(f"more than {MOST_VISITED:,} texts are no record")
    parts = _REFS.split(stored[1:]) if stored[:1] == ROPE else [bytes(unpacked(stored))]
    for place, part in enumerate(parts):
        if place % 2:
            if depth == 0:
                raise RecordTooLarge(f"texts within texts, more than {DEEPEST} deep, are no record")
            room = _put_together(texts[part], texts, pieces, room, depth - 1)
            continue
        room -= len(part)
        if room < 0:
            raise RecordTooLarge(f"more than {MOST_RECORD:,} bytes are no record")
        pieces.append(part)
    return room


def _rope(parts: list[bytes]) -> bytes:
    """What :data:`_REFS` has split."""
    return ROPE + b"".join(_MARK + part if place % 2 else part for place, part in enumerate(parts))


class Reader:
    """Reads many documents of one job; what they share is read once, and given as the same objects.

    Args:
        texts: what they refer to, by address, as they are stored.
    """

    def __init__(self, texts: Mapping[bytes, bytes]) -> None:
        self._texts = texts
        self._visits = 0
        self._said: dict[bytes, list[Any]] = {}
        self._weights: dict[bytes, int] = {}  # what is said once more is counted once more
        self._name = "\0" + secrets.token_hex(8)  # nobody's text begins so

    def read(self, stored: bytes, kind: type[T]) -> T:
        """A record, put together.

        Raises:
            KeyError: a text is not there.
            RecordTooLarge, zlib.error, msgspec.MsgspecError, ValueError: it is none.
        """
        if stored[:1] != ROPE:
            return decode(stored, kind)
        self._visits = 0
        try:
            return self._read(stored, kind)
        except (RecursionError, RecordTooLarge):  # nested deeper than Python goes, or a list of very many
            return decode(b"j" + whole(stored, self._texts), kind)

    def _read(self, stored: bytes, kind: type[T]) -> T:
        if kind is not LLMRequest:
            return msgspec.convert(self._filled(self._values(stored)[0], DEEPEST), kind)
        messages, rest = self._messages(stored)
        value = self._filled(self._values(rest)[0], DEEPEST)
        messages += value["messages"]
        if not set(map(type, messages)) <= {dict}:
            raise msgspec.ValidationError("a message is no object")
        # Each message was looked at once, and is not with every request that has it.
        request = msgspec.convert(value | {"messages": []}, LLMRequest)
        return cast(T, msgspec.structs.replace(request, messages=messages))

    def _messages(self, stored: bytes) -> tuple[list[Any], bytes]:
        """The messages with which a request begins, as far as it only refers to them, and the rest of it."""
        before, *parts = _REFS.split(stored[1:])
        messages: list[Any] = []
        if before != _BEGINS:
            return messages, stored
        for place in range(0, len(parts), 2):
            if place and parts[place - 1] != b",":
                return messages, _rope([_BEGINS + parts[place - 1].removeprefix(b","), *parts[place:]])
            messages += self._of(parts[place], DEEPEST)
            if len(messages) > MOST_VISITED:
                raise RecordTooLarge(f"more than {MOST_VISITED:,} messages are no record")
        return messages, _rope([_BEGINS + parts[-1].removeprefix(b",")])

    def _values(self, stored: bytes) -> list[Any]:
        """What a text says, with a mark and an address where it refers to another: a message, a string, or a
        run of messages."""
        rope = stored[1:] if stored[:1] == ROPE else bytes(unpacked(stored))
        name = msgspec.json.encode(self._name)[:-1]
        named = _REFS.sub(lambda found: name + found[1].hex().encode() + b'"', rope)
        values: list[Any] = msgspec.json.decode(b"[%b]" % named)
        return values

    def _of(self, address: bytes, depth: int) -> list[Any]:
        if depth == 0:
            raise RecordTooLarge(f"texts within texts, more than {DEEPEST} deep, are no record")
        if address in self._said:
            self._visit(self._weights[address])
            return self._said[address]
        before, stored = self._visits, self._texts[address]
        self._visit()
        values = self._values(stored)
        said = list(self._each(values, depth - 1)) if stored[:1] == ROPE else values
        self._said[address], self._weights[address] = said, self._visits - before
        return said

    def _visit(self, many: int = 1) -> None:
        self._visits += many
        if self._visits > MOST_VISITED:
            raise RecordTooLarge(f"more than {MOST_VISITED:,} texts are no record")

    def _each(self, values: list[Any], depth: int) -> Iterator[Any]:
        for value in values:
            self._visit()
            address = self._named(value)
            if address is None:
                yield self._filled(value, depth)
            else:
                yield from self._of(address, depth)

    def _filled(self, value: Any, depth: int) -> Any:
        """The same, with what it refers to."""
        if isinstance(value, dict):
            return {name: self._filled(part, depth) for name, part in value.items()}
        if isinstance(value, list):
            return list(self._each(value, depth))
        address = self._named(value)
        return value if address is None else self._of(address, depth)[0]

    def _named(self, value: Any) -> bytes | None:
        """The address that stands for something."""
        if isinstance(value, str) and value.startswith(self._name):
            return bytes.fromhex(value[len(self._name) :])
        return None
