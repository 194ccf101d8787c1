"""One command's time: with a fleet, and how Ctrl-C, SIGTERM and a terminal that closes end it in good order.

See also :class:`aios_dist.cli.ctrl_c_at_once`, for the time in which modules are imported.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from aios_dist.cli import ctrl_c_at_once
from aios_dist.config import Config, load
from aios_dist.threads.interrupts import run

if TYPE_CHECKING:
    from aios_dist.journal import Journal
    from aios_dist.producer.fleet import AsyncFleet

T = TypeVar("T")


def on_fleet(work: Callable[[AsyncFleet], Awaitable[T]], config: Config | None = None) -> T:
    """Run ``work`` with the fleet of the configuration; Ctrl-C cancels it and closes the connections."""
    with ctrl_c_at_once():
        from aios_dist.producer.fleet import AsyncFleet

    settings = config or load()

    async def session() -> T:
        async with AsyncFleet(settings) as fleet:
            return await work(fleet)

    with _warnings_said():
        return run(session)


def on_journal(work: Callable[[Journal], Awaitable[T]]) -> T:
    """The same for commands that only look: no Celery, so they answer faster."""
    with ctrl_c_at_once():
        from aios_dist.journal import Journal

    settings = load()

    async def session() -> T:
        journal = Journal(settings.fleet)
        try:
            return await work(journal)
        finally:
            await journal.close()

    return run(session)


class _Saying(logging.Handler):
    """What a fleet's handle warns of, as a command says things."""

    def emit(self, record: logging.LogRecord) -> None:
        from aios_dist.cli.entry import say

        say(record.getMessage())


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    source, saying = logging.getLogger("aios_dist.producer"), _Saying(logging.WARNING)
    source.addHandler(saying)
    try:
        yield
    finally:
        source.removeHandler(saying)


@contextlib.contextmanager
def every_end_is_ctrl_c() -> Iterator[Callable[[], bool]]:
    """All raise KeyboardInterrupt, also where a shell started us in the background and SIGINT ignored.

    But for SIGHUP where it is ignored: ``nohup``. It counts once: the shell and the kernel both send it.

    Yields:
        What says whether a SIGTERM has come: who sends one wants the end, and no exit code 130.
    """
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    def hang_up(*_: object) -> None:
        no_hang_up()
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio, too, knows this one
    signal.signal(signal.SIGTERM, terminate)
    if before[signal.SIGHUP] is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    try:
        yield lambda: terminated
    finally:
        for number, action in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # no_hang_up() is for the rest of our life
                signal.signal(number, action)


def no_hang_up() -> None:
    """The end in good order has begun: a terminal that closes now wants no other one."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def hang_up_is_sigterm(ignored: bool) -> None:
    """A terminal that closes ends this process as SIGTERM does; ``ignored``: not at all (``nohup``)."""
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: signal.raise_signal(signal.SIGTERM)
    )
