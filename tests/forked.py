"""Workers of tests, forked from a process that has imported what a worker imports.

::

    we ── a pair of sockets ──► this file as a script ── fork ──► the worker
     ╰─ lifeline, a pipe ───────────────────────────────► its watcher (see aios_dist/local/owned_process.py)

Of the second of processor time that a worker's start takes, nine tenths are imports. A worker that is
forked is the same otherwise: it has a session, an environment, a folder and descriptors of its own, begins
at the command's own entry and ends with its owner. What the interpreter or a library reads before the
command runs cannot be changed any more, so a worker with such variables of its own is started as a user's
is. So are those of files that are marked as ``real_starts``, and all of them where the kernel has no pidfd,
under coverage, and with ``AIOS_TEST_REAL_STARTS`` (``.ci/run`` sets it). Run as a script, this is the one
that forks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from aios_dist.local import members, owned_process
from aios_dist.local.owned_process import After, start_owned

COMMAND = [sys.executable, "-P", *members.COMMAND, "worker"]
IMPORTED = (
    "aios_dist.cli.worker",
    "aios_dist.runtime",
    "aios_dist.worker.providers.openai",
    "celery.apps.worker",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "genai_prices",
    "kombu.transport.redis",
)
READ_EARLY = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "CELERY", "KOMBU", "AIOHTTP", "MALLOC")
"""How the variables begin that count before the command runs."""
READ_AT_IMPORT = ("aios_dist.worker.faults",)
"""Our modules that read a variable when they are imported."""
FIRST = dict(os.environ)
MOST_BYTES = 200_000
MOST_DESCRIPTORS = 16


def possible() -> bool:
    """Whether workers can be forked here, and are to be."""
    unwanted = ("AIOS_TEST_REAL_STARTS", "COVERAGE_RUN", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    return hasattr(os, "pidfd_open") and sys.platform == "linux" and not any(map(os.environ.get, unwanted))


@contextlib.contextmanager
def workers() -> Iterator[None]:
    """Within, the workers that a ``LocalFleet`` starts are forked."""
    before = members.start_owned
    members.start_owned = start if possible() else start_owned
    try:
        yield
    finally:
        members.start_owned = before


# Who asks ---------------------------------------------------------------------------------------------


class Forked:
    """A forked worker, as ``subprocess.Popen`` shows one: the little of it that tests and fleets use."""

    def __init__(self, pid: int, args: Sequence[str], told: int, ours: int) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None
        self._told = told
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, told)
        weakref.finalize(self, os.close, ours)

    def poll(self) -> int | None:
        """The exit code once it has ended, minus the signal that ended it."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; ``subprocess.TimeoutExpired`` if it has not by then."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
        return code

    def _look(self, most_s: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                look = select.poll()
                look.register(self._told, select.POLLIN)
                if look.poll(None if most_s is None else max(0.0, most_s) * 1000):
                    self.returncode = int(
                        os.read(self._told, 16)
                    )  # (empty: who forks is gone. That is no end.)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process that forks, and the line to it."""

    def __init__(self) -> None:
        env = {**FIRST, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}  # as members.environment has it
        self.early = _early(env)
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = start_owned(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=env,
                keep=[theirs.fileno()],
                cwd="/",
            )

    def fork(self, order: bytes, descriptors: list[int]) -> int:
        """The pid of the new worker."""
        socket.send_fds(self.line, [order], descriptors)
        answer = self.line.recv(16)
        assert answer, "the process that forks workers for tests has ended: see its last words above"
        return int(answer)


_lock = threading.Lock()
_forkers: list[_Forker] = []


def start(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    grace_s: float = 5.0,
    keep: Sequence[int] = (),
    after: After | None = None,
) -> Any:
    """As ``start_owned``; a worker that writes all into one file is forked."""
    args = [os.fspath(part) for part in argv]
    env = dict(os.environ if env is None else env)
    order: dict[str, Any] = {
        "args": args,
        "env": env,
        "cwd": os.fspath(cwd or os.getcwd()),
        "owner": os.getpid(),
        "grace_s": grace_s,
        "keep": len(keep),
        "most_s": None if after is None else after.most_s,
    }
    said = json.dumps(order).encode()
    one_file = stdout is not None and not isinstance(stdout, int) and stderr == subprocess.STDOUT
    if args[: len(COMMAND)] == COMMAND and one_file and len(said) < MOST_BYTES:
        with _lock:
            if not _forkers:
                _forkers.append(_Forker())
            if _forkers[0].early == _early(env):
                return _fork(_forkers[0], args, said, stdout.fileno(), keep, after)
    return start_owned(
        argv, env=env, cwd=cwd, stdout=stdout, stderr=stderr, grace_s=grace_s, keep=keep, after=after
    )


def _fork(
    forker: _Forker, args: list[str], order: bytes, out: int, keep: Sequence[int], after: After | None
) -> Forked:
    (lifeline, ours), (told, telling) = os.pipe(), os.pipe()
    try:
        pid = forker.fork(order, [telling, out, lifeline, *([] if after is None else [after.pipe]), *keep])
    except BaseException:
        os.close(ours)
        os.close(told)
        raise
    finally:
        os.close(lifeline)
        os.close(telling)
    return Forked(pid, args, told, ours)


def _early(env: Mapping[str, str]) -> dict[str, str]:
    return {n: v for n, v in env.items() if n.startswith(READ_EARLY)}


# Who forks --------------------------------------------------------------------------------------------


def _serve(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork as asked; returns in what was forked, with what it is to be and its descriptors."""
    look = select.poll()
    look.register(line, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its end is told
    while True:
        for number, _ in look.poll():
            if number in children:
                look.unregister(number)
                os.close(number)
                pid, telling = children.pop(number)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(telling, str(code).encode())
                os.close(telling)
                continue
            order, descriptors, *_ = socket.recv_fds(line, MOST_BYTES, MOST_DESCRIPTORS)
            if not order:
                os._exit(0)
            telling, *given = descriptors
            if (pid := os.fork()) == 0:
                line.detach()
                for other in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *given}:
                    with contextlib.suppress(OSError):
                        os.close(other)
                return json.loads(order), given
            for one in given:
                os.close(one)
            child = os.pidfd_open(pid)
            children[child] = pid, telling
            look.register(child, select.POLLIN)
            line.send(str(pid).encode())


def _become(order: dict[str, Any], given: list[int]) -> None:
    """What ``start_owned`` makes of a new process, short of the program."""
    out, lifeline, *rest = given
    pipe = -1 if order["most_s"] is None else rest.pop(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(number, place)
    for number in rest:
        os.set_inheritable(number, True)
    os.chdir(order["cwd"])
    ended, held = os.pipe()
    watched = [lifeline]
    with contextlib.suppress(OSError):
        watched.append(os.pidfd_open(order["owner"]))
    if os.fork() == 0:
        os.close(held)
        try:
            owned_process._watch(watched, ended, order["grace_s"], After(pipe, order["most_s"] or 0.0))
        finally:
            os._exit(0)
    os.set_inheritable(held, True)
    for number in (nothing, out, ended, *watched, *([] if pipe < 0 else [pipe])):
        os.close(number)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    for module in READ_AT_IMPORT:
        importlib.reload(sys.modules[module])
    sys.orig_argv[:] = order["args"]
    sys.argv[:] = order["args"][len(COMMAND) - 2 :]


def _main(line: int) -> None:
    for module in IMPORTED:
        __import__(module)
    alone = threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    assert alone, "something that a worker imports starts threads: nothing can be forked beside those"
    gc.collect()
    gc.freeze()
    _become(*_serve(socket.socket(fileno=line)))
    runpy.run_module(members.COMMAND[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
