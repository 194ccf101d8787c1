"""A TCP line to Redis that breaks behind a chosen verb: the verb's bytes arrive, nothing after them does.

What a verb and the commands behind it share is one pipeline; here the wire ends between the two. The answer
is lost as well, so the client cannot know whether the verb has run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Self

from aios_dist.journal.scripts import Script


class Line:
    """Listens on a free port of 127.0.0.1 and forwards to Redis. Runs on a loop in a thread of its own.

    Attributes:
        cuts: how often it has broken.
        lost: the commands that were behind the verb and did not arrive, by name.
    """

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self.lost: list[str] = []
        self._port = port
        self._verb: frozenset[bytes] = frozenset()
        self._after = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut_behind(self, verb: Script, passage: int = 1) -> None:
        """Break once, at the given passage of this verb from now on."""
        self.cuts, self.lost = 0, []
        self._after, self._verb = passage, frozenset({verb.function.encode(), verb.sha.encode()})

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        redis, to_redis = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._back(redis, to_client))
        try:
            while True:
                command = await _command(client)
                words, raw = command
                to_redis.write(raw)
                if words[0].upper() in (b"FCALL", b"EVALSHA") and words[1] in self._verb:
                    self._after -= 1
                    if self._after == 0:
                        await self._cut(client, to_redis, redis, back)
                        return
                await to_redis.drain()
        except (OSError, EOFError, asyncio.IncompleteReadError):
            return
        finally:
            back.cancel()
            for writer in (to_client, to_redis):
                writer.transport.abort()

    async def _cut(
        self,
        client: asyncio.StreamReader,
        to_redis: asyncio.StreamWriter,
        redis: asyncio.StreamReader,
        back: asyncio.Task[None],
    ) -> None:
        self._verb = frozenset()
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)
        to_redis.write_eof()
        await redis.read(-1)  # until Redis hangs up: it has run all that it was sent
        # What else of the pipeline had come already; what has not come yet does not come any more either.
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError):
            while True:
                words, _ = await asyncio.wait_for(_command(client), 0.05)
                self.lost.append(words[0].upper().decode())
        self.cuts += 1

    async def _back(self, redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await redis.read(1 << 16):
                to_client.write(data)
            to_client.transport.abort()


async def _command(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """The next command: its words, and its bytes as they came."""
    raw = head = await reader.readuntil(b"\r\n")
    words = []
    for _ in range(int(head[1:-2])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:-2]) + 2)
        words.append(word[:-2])
        raw += size + word
    return words, raw
