"""Threads that are threads, also in a program that gevent has monkey-patched, and how to wait for them there.

asyncio allows one running loop a thread, and under gevent all of ``threading`` is one thread. So a loop of
ours gets a real one, with the system's own selector, and a greenlet that waits for it lets the others run.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any

Bell = tuple[Callable[[], object], Callable[[], None]]
"""How the thread that made it waits, and how any other ends that wait, or the next one."""

fleets: set[int] = set()
"""The threads of all fleets' far sides: one that waited for another, or for itself, might wait for ever."""


def lacking() -> str | None:
    """Why this process cannot run a thread beside its own, in a sentence; None where it can."""
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return (
            "A Fleet needs real threads, and eventlet has replaced them in this process: use gevent, or none."
        )
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        options = {k.decode() if isinstance(k, bytes) else k: v for k, v in uwsgi.opt.items()}
        if not any(name in options for name in ("enable-threads", "threads", "gevent")):
            return (
                "A Fleet needs a thread, and uWSGI runs none beside its own without enable-threads: set it."
            )
    return None


def _gevent() -> Any:
    """gevent's monkey module where it has replaced this process' threads, else None."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey if monkey is not None and monkey.is_module_patched("threading") else None


def start(work: Callable[[], None], name: str) -> None:
    """Run this in a real thread that the process does not wait for when it ends."""
    monkey = _gevent()
    if monkey is None:
        threading.Thread(target=work, name=name, daemon=True).start()
    else:
        monkey.get_original("_thread", "start_new_thread")(_and_its_hub, (work,))


def _and_its_hub(work: Callable[[], None]) -> None:
    """Sockets that are made in the thread give it a hub, and that has descriptors."""
    try:
        work()
    finally:
        importlib.import_module("gevent").get_hub().destroy(destroy_loop=True)


def ident() -> int:
    """Of the real thread that this is."""
    monkey = _gevent()
    found: int = (threading.get_ident if monkey is None else monkey.get_original("_thread", "get_ident"))()
    return found


def bell() -> Bell:
    """Made by the thread (or greenlet) that will wait."""
    if _gevent() is None:
        lock = threading.Lock()
        lock.acquire()
        return lock.acquire, functools.partial(_open, lock)
    event = importlib.import_module("gevent.event").Event()
    loop = importlib.import_module("gevent").get_hub().loop

    def wait() -> None:
        held = loop.async_()  # else gevent says, with nothing else to wait for, that it would be for ever
        held.start(int)
        try:
            event.wait()
            event.clear()
        finally:
            held.stop()
            held.close()

    return wait, functools.partial(loop.run_callback_threadsafe, event.set)


def _open(lock: threading.Lock) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # rung already


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop of the system's own, whatever the program's policy is (uvloop's does not outlive a fork)."""
    monkey = _gevent()
    if monkey is None:
        return asyncio.SelectorEventLoop()
    return _Loop(monkey.get_original("selectors", "DefaultSelector")())


class _Loop(asyncio.SelectorEventLoop):
    """Under gevent: what asyncio gives to threads goes to real ones."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            answer: Any = None
            error: BaseException | None = None
            try:
                answer = func(*args)
            except BaseException as exc:
                error = exc
            try:
                self.call_soon_threadsafe(_settle, future, answer, error)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        start(work, "aios-work")
        return future

    async def getaddrinfo(self, *args: Any, **named: Any) -> Any:
        monkey = _gevent()
        look = monkey.get_original("socket", "getaddrinfo")
        return await self.run_in_executor(None, functools.partial(look, *args, **named))


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
