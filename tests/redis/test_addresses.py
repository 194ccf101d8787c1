"""The lines that take tickets find Redis while DNS is away."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError

from aios_dist.broker.addresses import Tls
from aios_dist.broker.app import make_app
from aios_dist.config import Config, FleetConfig

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis


class Dns:
    """Knows names that end in ``.test``; until it is away, with that error."""

    def __init__(self) -> None:
        self.error = 0
        self._ask = socket.getaddrinfo

    def __call__(self, host: str, *more: Any) -> Any:
        if not host.endswith(".test"):
            return self._ask(host, *more)
        if self.error:
            raise socket.gaierror(self.error, "said the resolver")
        return self._ask("127.0.0.1", *more)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    made = Dns()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


def test_kombu_connects_to_the_last_address_of_a_name_while_dns_is_away(
    dns: Dns, redis_server: EmbeddedRedis
) -> None:
    def ping(host: str) -> bool:
        url = f"redis://{host}:{redis_server.port}/0"
        with make_app(Config(fleet=FleetConfig(redis_url=url))).connection_for_read() as line:
            line.ensure_connection(max_retries=1)  # a worker tries on
            return bool(line.default_channel.client.ping())

    assert ping("one.test")
    dns.error = socket.EAI_AGAIN
    assert ping("one.test")
    with pytest.raises(OperationalError, match="said the resolver"):
        ping("two.test")
    dns.error = socket.EAI_NONAME
    with pytest.raises(OperationalError, match="said the resolver"):
        ping("one.test")


def test_tls_still_asks_for_the_name(dns: Dns, redis_server: EmbeddedRedis) -> None:
    class Asked(Tls):
        def _wrap_socket_with_ssl(self, made: socket.socket) -> socket.socket:
            names.append(self.host)
            return made

    names: list[str] = []
    for dns.error in (0, socket.EAI_AGAIN):
        Asked(host="tls.test", port=redis_server.port)._connect().close()
    assert names == ["tls.test"] * 2
