"""An answer as its bytes come in: status and headers, then pieces, then an end, in good order or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from aios_dist.worker.providers.replies import NoAnswer, ProviderSaid, Refused, Reply, TooLarge
from aios_dist.worker.providers.streams import Stream, read_all


class Incoming:
    """Reads one answer: :meth:`head`, then :meth:`feed` with each piece, then :meth:`end`.

    Args:
        reply: takes what is said.
        streams: a stream was asked for.

    Attributes:
        headers: of the answer.
        over: nothing more is of interest.
        tidy: it is over in good order: what little may still come lets its connection carry another call.
    """

    def __init__(self, reply: Reply, streams: bool) -> None:
        self.reply = reply
        self.headers: Mapping[str, str] = {}
        self.over = self.tidy = False
        self._streams = streams
        self._status = 200
        self._stream: Stream | None = None
        self._pieces: list[bytes] = []
        self._failed: Exception | None = None

    @property
    def begun(self) -> bool:
        """Something of a streamed answer is there."""
        return self._stream is not None and bool(self.reply.text or self.reply.calls)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Its status and headers, whose names are found in whatever case."""
        self._status, self.headers = status, headers
        kind = headers.get("content-type", "")
        # A server may answer a request for a stream with the whole, as some gateways do.
        if 200 <= status < 300 and ("event-stream" in kind or (self._streams and "json" not in kind)):
            self._stream = Stream(self.reply)

    def feed(self, piece: bytes) -> None:
        """The next bytes of its body. What is wrong with them is said at the end."""
        if 200 <= self._status < 300:
            self.reply.keep(piece)
        if self._stream is None:
            self._pieces.append(piece)
            return
        try:
            self.tidy = self._stream.feed(piece)
            self.over = self.tidy or self._stream.over
        except Exception as exc:
            self._failed, self.over = exc, True

    def end(self, broke: BaseException | None = None) -> None:
        """No more comes.

        Args:
            broke: why, where it was before its end.

        Raises:
            Refused: its status says so.
            NoAnswer, ProviderSaid, EOFError, msgspec.DecodeError: see :class:`Reply`.
            BaseException: ``broke``, where what came is no whole answer.
        """
        if isinstance(broke, TooLarge) and self._stream is None:
            self._pieces.clear()  # the error's frames live until Python looks for cycles
            raise broke
        fine = 200 <= self._status < 300
        if fine and self._stream is None:
            self._whole(broke)
        elif not isinstance(broke, Exception | None):
            raise broke
        elif not fine:  # whatever becomes of its words
            raise Refused(self._status, b"".join(self._pieces))
        elif isinstance(self._failed, msgspec.DecodeError | ProviderSaid):
            raise self._failed
        elif self._stream is not None:
            self._stream.end(self._failed or broke)

    def _whole(self, broke: BaseException | None) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        try:
            # A stream that nobody asked for, or that is not called one.
            if _EVENTS.match(data) or _LINES.match(data):
                read_all(data, self.reply)
            elif not _ANSWER.match(data):
                raise NoAnswer(data)
            else:
                self.reply.whole(data)
        except (msgspec.DecodeError, NoAnswer, EOFError):
            # What decodes as whole is the answer, also where its connection ended in disorder.
            if broke is not None:
                raise broke from None
            raise
        finally:
            del data
        if not isinstance(broke, Exception | None):
            raise broke


_BOM = rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\0?\s*"
_ANSWER = re.compile(_BOM + rb"[\[{\"]")
"""How JSON begins; all else is a page, or the words of a proxy, whatever the server calls it."""

_EVENTS = re.compile(_BOM + rb"(?:data|event|id|retry)?:")
"""How a stream begins."""

_LINES = re.compile(_BOM + rb'\{[^\n]*"delta"[^\n]*\}\s*\n\s*\{')
"""… one of bare lines, as some servers have it."""
