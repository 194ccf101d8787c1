"""A child process that ends when we end, however we end: also after ``kill -9``.

::

    we ── start_owned() ──► this file as a script ── exec ──► the program   (its pid: our Popen's)
     ╰─ lifeline: a pipe and, on Linux, a pidfd ──►  ╰─ fork ──► the watcher, in the program's group

The watcher sleeps until one of two things happens. The program ends: so does the watcher. The lifeline ends,
which is to say that all of our process is gone: it sends SIGTERM to the program's process group, and SIGKILL
after ``grace_s``. A group with a member keeps its number, so that never hits a stranger. A program that
others need to the last (``After``) is ended when those are gone.

Why not Linux' parent-death signal: it follows the *thread* that started the child, so a server started in a
thread pool would end with that thread; it needs code of ours between fork and exec in a process with threads;
and macOS has none. Why the pidfd beside the pipe: children that we fork without exec (multiprocessing,
prefork) hold copies of the pipe.

Run as a script it must start fast: keep this module's imports few.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

NOT_STARTED = 127
"""Exit code when the program could not be executed; the reason is on its stderr."""
MOST_S = 2_000_000.0
"""Seconds, about: the longest wait that the system has a number for."""


class After(NamedTuple):
    """Whom a program outlives when its owner is dead: all who hold the other end of a pipe.

    Attributes:
        pipe: the reading end.
        most_s: seconds that they have, at most.
    """

    pipe: int
    most_s: float


def start_owned(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    grace_s: float = 5.0,
    keep: Sequence[int] = (),
    after: After | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that does not outlive us.

    It leads a session and process group of its own, so Ctrl-C in the terminal does not reach it: stopping it
    in good order is ours to do. Any thread may call this.

    Args:
        argv: the program, found on the PATH, and its arguments.
        env, cwd, stdout, stderr: as of ``subprocess.Popen``.
        grace_s: seconds between SIGTERM and SIGKILL, if it is the watcher that ends the program.
        keep: open descriptors that the program has, too, for as long as it runs: a lock, an end of a pipe.
        after: whom the watcher waits for before it ends the program.

    Returns:
        The program's own ``Popen`` (pid, wait, kill). Keep it: when it is collected, the program ends too.
        A program that cannot be executed exits with ``NOT_STARTED``.
    """
    import subprocess
    import weakref

    lifeline, ours = os.pipe()
    pipe, most_s = after or (-1, 0.0)
    numbers = [str(number) for number in (os.getpid(), lifeline, grace_s, pipe, most_s)]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *numbers, *[os.fspath(part) for part in argv]],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(lifeline, *keep, *([] if after is None else [pipe])),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(lifeline)
    weakref.finalize(process, os.close, ours)
    return process


def _become(owner: int, lifeline: int, grace_s: float, after: After, argv: list[str]) -> None:
    """Fork the watcher, then become ``argv``."""
    for of_the_watcher in (lifeline, *([] if after.pipe < 0 else [after.pipe])):
        os.set_inheritable(of_the_watcher, False)
    watched = [lifeline]
    if hasattr(os, "pidfd_open"):
        try:
            watched.append(os.pidfd_open(owner))
        except OSError:  # the owner is gone, or the kernel is older than 5.3
            pass
    if os.getppid() != owner:  # it was gone before we looked, so that pidfd may be a stranger's
        return
    ended, held_by_program = os.pipe()
    if os.fork() == 0:
        os.close(held_by_program)
        try:
            _watch(watched, ended, grace_s, after)
        finally:
            os._exit(0)
    os.set_inheritable(held_by_program, True)  # for the rest of the program's life
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.execvp(argv[0], argv)


def _watch(watched: list[int], ended: int, grace_s: float, after: After) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # whoever reads the program's output must see it end with the program
        os.dup2(nowhere, standard)
    program = os.getppid()
    ready = _first_of([*watched, ended])
    if after.pipe >= 0 and ended not in ready:
        ready = _first_of([after.pipe, ended], after.most_s)
    if ended in ready or os.getppid() != program:
        return
    os.killpg(0, signal.SIGTERM)
    _first_of([ended], grace_s)
    os.killpg(0, signal.SIGKILL)  # what is left of the group, ourselves included


def _first_of(numbers: list[int], most_s: float | None = None) -> list[int]:
    """Those of these descriptors that have come to their end; none after ``most_s``."""
    look = select.poll()  # not select: ours have the owner's numbers, and that takes none above 1023
    for number in numbers:
        look.register(number, select.POLLIN)
    return [number for number, _ in look.poll(None if most_s is None else min(most_s, MOST_S) * 1000)]


def _main(args: list[str]) -> int:
    owner, lifeline, grace_s, pipe, most_s, *argv = args
    try:
        _become(int(owner), int(lifeline), float(grace_s), After(int(pipe), float(most_s)), argv)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.stderr.flush()
    return NOT_STARTED


if __name__ == "__main__":
    os._exit(_main(sys.argv[1:]))
