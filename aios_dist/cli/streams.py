"""The standard streams as a command needs them: all are there, and what they cannot take ends nothing."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import IO, Any

UNENCODABLE = "aios-escape"


def prepare() -> None:
    """Before anything is written: streams that are closed lead nowhere, and every text can be written.

    A closed one would be worse than none: the next file or connection that is opened would take its number,
    and get what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)  # whatever program we start, or become, has it too
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error(UNENCODABLE, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=UNENCODABLE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""``\\uXXXX`` for what an encoding has not: in a JSON document that is the same text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2)), error.end


def flush_or_drop(stream: IO[str]) -> None:
    """Write out what is buffered. Where that fails it is dropped: the interpreter, too, would try when it
    ends, and complain."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


class Lasting:
    """A stream for what goes on though nobody can read it: on a full disk, in a terminal that is gone.

    What it cannot write is dropped, so that a fleet does not end for a line of news. A reader that has gone
    away (``| head``) is another matter: that raises BrokenPipeError as ever.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """All of it, as far as the caller can tell."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as that goes."""
        with self._dropping():
            self._stream.flush()

    @staticmethod
    @contextlib.contextmanager
    def _dropping() -> Any:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
