"""SIGTERM ends a command that holds child processes as Ctrl-C does: in good order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Both raise KeyboardInterrupt, also where a shell started us in the background and SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio, too, knows this one
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
