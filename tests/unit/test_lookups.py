"""Hosts are looked up beside everything else, and their last address is kept while DNS is away."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_dist.worker.lookups import WorkerLoop


class Dns:
    """Stands for the system's resolver.

    Attributes:
        free: hosts that begin with ``slow`` are answered when it is set.
        error: what all others get in the place of an answer.
    """

    def __init__(self) -> None:
        self.free = threading.Event()
        self.error = 0
        self.asked = 0

    def __call__(self, host: Any, port: Any, *_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        if host.startswith("slow"):
            self.free.wait(20)
        if self.error:
            raise socket.gaierror(self.error, "said the resolver")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{self.asked}", port))]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dns]:
    made = Dns()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    monkeypatch.setattr("aios_dist.worker.lookups.PATIENCE_S", 0.05)
    yield made
    made.free.set()


def on_loop(run: Callable[[WorkerLoop], Any]) -> Any:
    loop = WorkerLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(run(loop), 20))
    finally:
        loop.close()


def place(found: Any) -> str:
    return str(found[0][4][0])


def test_forty_hosts_that_are_not_answered_keep_nothing_else_waiting(dns: Dns) -> None:
    async def run(loop: WorkerLoop) -> str:
        stuck = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 1)) for n in range(40)]
        await asyncio.sleep(0)
        assert await loop.run_in_executor(None, lambda: 7) == 7
        found = await loop.getaddrinfo("quick", 1)
        assert not any(one.done() for one in stuck)
        dns.free.set()
        await asyncio.gather(*stuck)
        return place(found)

    assert on_loop(run).startswith("10.0.0.")


def test_all_who_ask_for_one_host_share_one_lookup(dns: Dns) -> None:
    async def run(loop: WorkerLoop) -> None:
        asked = [asyncio.ensure_future(loop.getaddrinfo("slow", 1)) for _ in range(50)]
        await asyncio.sleep(0)
        dns.free.set()
        assert {place(found) for found in await asyncio.gather(*asked)} == {"10.0.0.1"}

    on_loop(run)
    assert dns.asked == 1


@pytest.mark.parametrize("error", [socket.EAI_AGAIN, socket.EAI_FAIL])
def test_while_dns_is_away_the_last_address_stands(
    dns: Dns, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(loop: WorkerLoop) -> None:
        known = await loop.getaddrinfo("host", 1)
        dns.error = error
        for _ in range(3):
            assert await loop.getaddrinfo("host", 1) == known
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("stranger", 1)
        dns.error = 0
        assert await loop.getaddrinfo("host", 1) != known

    on_loop(run)
    assert [record.message.partition("(")[0] for record in caplog.records] == [
        "DNS does not answer for host "
    ], "once"


def test_a_resolver_that_hangs_is_not_waited_for_where_an_address_is_known(dns: Dns) -> None:
    async def run(loop: WorkerLoop) -> None:
        dns.free.set()
        known = await loop.getaddrinfo("slow", 1)
        dns.free.clear()
        assert await loop.getaddrinfo("slow", 1) == known

    on_loop(run)


def test_a_host_that_is_no_more_is_forgotten(dns: Dns) -> None:
    async def run(loop: WorkerLoop) -> None:
        await loop.getaddrinfo("host", 1)
        for dns.error in (socket.EAI_NONAME, socket.EAI_AGAIN):
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo("host", 1)

    on_loop(run)


def test_the_loop_is_asyncios_own_whatever_policy_is_set() -> None:
    loop = WorkerLoop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    found = loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
    loop.close()
    assert place(found) == "127.0.0.1"
