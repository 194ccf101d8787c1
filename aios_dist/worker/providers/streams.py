"""Reads server-sent events into a reply.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re

import msgspec

from aios_dist.worker.providers.lenient import Truncated, decode
from aios_dist.worker.providers.refusals import read_body, status_of
from aios_dist.worker.providers.replies import NoAnswer, ProviderSaid, Reply, TooLarge

_NO_DATA = (b":", b"id:", b"retry:")
_FIELD = re.compile(rb"[\w-]+(?::.*)?")
"""A field that nobody knows, which is passed over."""

_JSON = (b"{", b"[", b'"')
_DONE = (b"[DONE]", b"DONE", b'"[DONE]"')
_BOM = b"\xef\xbb\xbf"


class _Events:
    """Lines to events. An event's data stands on one line with all providers; some servers break it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.ended = False
        self.odd = b""  # the first line that is none of such a stream, since the last that was
        self._kind = b""
        self._open: list[bytes] = []  # data whose JSON goes on in the next line
        self._came = self._tried = 0  # bytes of data, and how many were looked at

    def line(self, line: bytes) -> None:
        """One line, without its end.

        Raises:
            ProviderSaid: it is an error.
            msgspec.DecodeError: it cannot be read.
        """
        line = line.strip().removeprefix(_BOM)
        if b"\r" in line:  # also an end of a line
            for part in line.split(b"\r"):
                self.line(part)
            return
        if not line:
            self.end()
        elif line.startswith(b"data:"):
            self._data(line[5:].strip())
        elif line[:1] in (b"{", b"[") and not self._open:  # an error that some servers throw in, bare
            self._data(line)
        elif line.startswith(b"event:"):
            self._kind = line[6:].strip()
        elif line.startswith(_NO_DATA):
            pass
        elif self._open:  # a line break within a string
            self._data(line)
        elif line.startswith(b"error:"):
            said = read_body(line[6:].strip())
            raise ProviderSaid(status_of(said), said)
        elif not _FIELD.fullmatch(line):  # what a server says that breaks down
            self.odd = self.odd or line

    def _data(self, data: bytes) -> None:
        if not data:
            return
        if data.upper() in _DONE:
            self.end()
            self.ended = True
            return
        if not self._open and data[:1] not in _JSON:
            if self._kind == b"error":
                raise ProviderSaid(500, data.decode("utf-8", "replace"))
            self.odd = self.odd or data  # words: a sign of life, or of its end
            return
        self._open.append(data)
        self._came += len(data)
        # Most events are one line. In one of many lines each could be the last: not all are tried, as that
        # costs the square of its length.
        if len(self._open) == 1 or (data[-1:] in (b"}", b"]") and self._tried < 8 * self._came + TRIED):
            try:
                self._event()
            except msgspec.DecodeError:
                self._tried += self._came

    def _event(self) -> None:
        """What is open is the data of an event."""
        data = b"\n".join(self._open)
        if self._kind == b"error":
            said = decode(data)
            raise ProviderSaid(status_of(said), said)
        self.ended = self.reply.event(data) or self.ended
        self._open.clear()
        self._came, self.odd = 0, b""

    def end(self) -> None:
        """The event ends here, so its data must be whole.

        Raises:
            msgspec.DecodeError: it is not.
        """
        try:
            self._last()
        except Truncated as exc:
            raise msgspec.DecodeError(str(exc)) from None
        self._kind = b""

    def last(self, line: bytes) -> None:
        """The stream ends behind this line, which had no end.

        Raises:
            EOFError: in its middle.
        """
        if line:
            self.line(line)
        try:
            self._last()
        except Truncated:
            raise EOFError(CUT) from None

    def _last(self) -> None:
        try:
            if self._open:
                self._event()
        except msgspec.DecodeError:
            if self._kind == b"error":
                said = b"\n".join(self._open).decode("utf-8", "replace")
                raise ProviderSaid(500, said) from None
            raise
        finally:
            self._open.clear()
            self._came = 0


TRIED = 256 * 1024
"""Bytes of an event of many lines that are looked at anew with its next, beside eight times what it has."""

CUT = "the stream ended before the answer did"


class Stream:
    """Reads a stream to its last event: :meth:`feed` with each piece, then :meth:`end`.

    Attributes:
        over: nothing more is of interest.
    """

    def __init__(self, reply: Reply) -> None:
        self.over = False
        self._reply = reply
        self._events = _Events(reply)
        self._begun: list[bytes] = []  # of a line: joined once, so that a long one costs linear time

    def feed(self, piece: bytes) -> bool:
        """The next bytes; True where the last event is among them.

        Raises:
            ProviderSaid, msgspec.DecodeError: see :meth:`Reply.event`.
        """
        events = self._events
        head, newline, rest = piece.partition(b"\n")
        self._begun.append(head)
        if newline:
            *lines, rest = (b"".join(self._begun) + b"\n" + rest).split(b"\n")
            self._begun = [rest]
            try:
                for line in lines:
                    events.line(line)
                    if events.ended:
                        break
            except (msgspec.DecodeError, ProviderSaid):
                # Whatever comes behind the end of an answer, or does not come, breaks nothing.
                if not self._reply.complete:
                    raise
                self.over = True
        self.over = self.over or events.ended
        return events.ended

    def end(self, broke: Exception | None = None) -> None:
        """No more comes.

        Args:
            broke: why, where that was before its end.

        Raises:
            EOFError: it ended before the answer did.
            NoAnswer: it ended in good form and had nothing of an answer, or the page of a proxy.
            ProviderSaid, msgspec.DecodeError: see :meth:`Reply.event`.
            Exception: ``broke``, where the answer is not there.
        """
        events, reply = self._events, self._reply
        begun, self._begun = self._begun, []
        if isinstance(broke, TooLarge):
            begun.clear()  # which its frames would keep
        try:
            if not (events.ended or reply.complete):
                events.last(b"".join(begun))
        except (msgspec.DecodeError, EOFError) as exc:
            raise broke or exc from None
        if reply.complete:
            return
        if events.odd and broke is None:
            raise (
                NoAnswer(events.odd)
                if events.odd[:1] == b"<"
                else ProviderSaid(500, events.odd.decode("utf-8", "replace"))
            )
        if not events.ended:
            raise broke or EOFError(CUT)
        if not (reply.text or reply.calls):
            raise NoAnswer(bytes(reply.raw))


def read_all(data: bytes, reply: Reply) -> None:
    """Read a stream that is all there. Raises as :class:`Stream` does."""
    stream, broke = Stream(reply), None
    try:
        stream.feed(data)
    except (msgspec.DecodeError, ProviderSaid):
        raise
    except Exception as exc:
        broke = exc
    stream.end(broke)
