"""Lines to Redis that find it while DNS is away: by the last address that its name had in this process.

For kombu, which connects in Celery's own thread. What connects on a worker's loop has
:mod:`aios_dist.worker.lookups`.
"""

from __future__ import annotations

import socket
from typing import Any

import redis

AWAY = {socket.EAI_AGAIN, socket.EAI_FAIL, getattr(socket, "EAI_SYSTEM", socket.EAI_FAIL)}
"""Failures of a lookup that say nothing of the host: DNS did not answer."""

_known: dict[str, str] = {}


class Tcp(redis.Connection):
    """As redis-py's."""

    def _connect(self) -> Any:
        name = self.host
        try:
            made = super()._connect()  # type: ignore[no-untyped-call]
        except socket.gaierror as exc:
            if exc.errno not in AWAY or name not in _known:
                raise
            self.host = _known[name]
            try:
                return super()._connect()  # type: ignore[no-untyped-call]
            finally:
                self.host = name  # TLS asks for that
        _known[name] = made.getpeername()[0]
        return made


class Tls(redis.SSLConnection, Tcp):
    """As redis-py's."""


__all__ = ["AWAY", "Tcp", "Tls"]
