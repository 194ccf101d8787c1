"""A TCP line to Redis that a test may cut, silence or close, while real processes talk over it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Self

CHUNK = 1 << 16


class Wire:
    """Stands between a fleet and its Redis; on a loop in a thread of its own.

    ::

        with Wire(server.port) as wire:
            fleet = Fleet(Config(fleet=FleetConfig(redis_url=wire.url)))
            wire.cut()

    Args:
        port: Redis' own, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._redis = port
        self._port = 0
        self._lines: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._holes: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)

    @property
    def url(self) -> str:
        """What the fleet takes for its Redis."""
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """All lines that are open break; new ones may be made at once."""
        self._call(self._cut)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing comes through, in neither direction, and nobody is told; afterwards it all arrives."""
        self._call(self._flowing.clear)
        try:
            yield
        finally:
            self._call(self._flowing.set)

    def forget(self) -> int:
        """Whatever is sent over the lines that are open now arrives nowhere, for ever, and nobody is told: as
        where a firewall between has forgotten them. New ones are as ever. Gives how many these are."""
        before = len(self._holes)
        self._call(lambda: self._holes.update(self._lines))
        return (len(self._holes) - before) // 2

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """All lines break, and whoever makes a new one is hung up on."""
        self._refuse(True)
        try:
            yield
        finally:
            self._refuse(False)

    # On the loop ---------------------------------------------------------------------------------------

    def _call(self, what: Callable[[], object]) -> None:
        """Do it on the loop, and return when it is done."""

        async def run() -> None:
            what()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _refuse(self, refuses: bool) -> None:
        self._refuses = refuses
        if refuses:
            self.cut()

    def _cut(self) -> None:
        for line in self._lines:
            line.transport.abort()
        self._lines.clear()

    async def _start(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        self._cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            if self._refuses:
                raise ConnectionRefusedError
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._redis)
        except OSError:  # it restarts
            writer.transport.abort()
            return
        both = (writer, to_redis)
        self._lines.update(both)
        for source, sink in ((reader, to_redis), (from_redis, writer)):
            pump = asyncio.create_task(self._pump(source, sink, both))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(CHUNK):
                await self._flowing.wait()
                if sink in self._holes:
                    continue
                sink.write(piece)
                await sink.drain()
        await self._flowing.wait()  # not even the end of a line is heard
        for line in both:
            if line is sink and sink in self._holes:
                continue  # its other end never hears of it
            line.transport.abort()
            self._lines.discard(line)
