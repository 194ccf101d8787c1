"""Answers that are whole and paid for, decorated as some servers do and no standard has it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COUNT = re.compile(rb'("\w*_tokens":)(\d+)')
_INDEX = re.compile(rb'("index":)(\d+)')
_ID = re.compile(rb'("id":)"(?:chatcmpl|msg)-[^"]*"')
_END = re.compile(rb'("(?:finish|stop)_reason":)')

_WAYS = (
    lambda data: _COUNT.sub(rb'\1"\2"', data),  # usage as text
    lambda data: _COUNT.sub(rb"\1\2.0", data),
    lambda data: _COUNT.sub(rb"\g<1>-1", data),
    lambda data: _INDEX.sub(rb'\1"\2"', data),
    lambda data: _ID.sub(rb"\g<1>7", data),
    lambda data: _END.sub(rb'"logprobs":NaN,\1', data),
    lambda data: _END.sub(rb'"nobody_knows":{"this":[null]},\1', data),
    lambda data: data.replace(b"\n", b"\r\n"),
)
BOM = b"\xef\xbb\xbf"


def odd(pieces: Sequence[bytes], number: int) -> list[bytes]:
    """The same answer with one oddity; every other one begins with a byte order mark besides.

    Args:
        pieces: of the body, or of the stream.
        number: of the call: which oddity it is.
    """
    way = _WAYS[number // 2 % len(_WAYS)]
    changed = [way(piece) for piece in pieces]
    return [BOM + changed[0], *changed[1:]] if number % 2 else changed
