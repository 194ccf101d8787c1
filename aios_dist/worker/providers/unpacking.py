"""Takes gzip and deflate off an answer, in bounded pieces, however odd or damaged it is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

ACCEPTED = "gzip, deflate"
"""What is asked for, and unpacked here."""

PIECE = 16 * 1024


class Unpacked:
    """Bytes as they were before they were packed, a piece at a time, however small they have become.

    What is called packed and is not passes as it is, and of what is damaged all that comes before: it
    was paid for.

    Args:
        encoding: ``gzip``, ``deflate``; anything else: not packed.
    """

    def __init__(self, encoding: str) -> None:
        self._packed = encoding in _PACKED
        self._head = self._tail = b""
        self._inflate: Any = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What is in the next bytes, in pieces of ``PIECE`` at the most (of what was packed)."""
        if self._packed and self._inflate is None:
            self._head += data
            length = _head_length(self._head)
            if length is None:
                return  # it is not all there
            self._packed, data, self._head = length >= 0, self._head[max(0, length) :], b""
            # No sum at the end is looked at: what has been unpacked is there.
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        if not self._packed:
            yield data
            return
        while data and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(data, PIECE)
            except zlib.error:
                return
            data = self._inflate.unconsumed_tail
            if piece:
                yield piece
        if self._inflate.eof:
            yield from self._next(self._inflate.unused_data or data)

    def _next(self, data: bytes) -> Iterator[bytes]:
        """What may come behind the end: the sum, and more, packed by itself: some do so with each event."""
        self._tail += data
        begun = self._tail.find(b"\x1f\x8b\x08", 0, SUM + 3)
        if begun < 0:
            self._tail = self._tail[: SUM + 3]
            return
        rest, self._tail, self._inflate = self._tail[begun:], b"", None
        yield from self.pieces(rest)


def _head_length(data: bytes) -> int | None:
    """Bytes before what is packed; -1: nothing is, whatever its header says; None: more must come.

    https://www.rfc-editor.org/rfc/rfc1952 and 1950; some servers write no head at all.
    """
    if len(data) < 2:
        return None
    if data[:2] != b"\x1f\x8b":
        if data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0:
            return 2
        return -1 if data.lstrip()[:1] in (b"{", b"[", b"d", b"e", b":", b"<", b"\xef") else 0
    if len(data) < 10:
        return None
    flags, at = data[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(data[10:12], "little")
    for text in (8, 16):  # its name, and a comment
        if flags & text:
            at = data.find(b"\0", at) + 1
            if not at:
                return None
    at += 2 if flags & 2 else 0
    return at if len(data) >= at else None


SUM = 8
"""Bytes behind what is packed: its sum and its length."""

_PACKED = ("gzip", "x-gzip", "deflate")


def unpacked(said: str) -> list[Unpacked]:
    """What unpacks an answer whose ``content-encoding`` says this; one after the other, empty for none.

    Of what nobody asked for nothing is unpacked.
    """
    names = [name for one in said.lower().split(",") if (name := one.strip()) not in ("", "identity")]
    return [Unpacked(name) for name in reversed(names)] if set(names) <= set(_PACKED) else []
