"""Folders that one fleet has to itself.

A lock on a file in the folder says so. It is the kernel's (``flock``), and the processes that work in the
folder have it from their owner: so it stands for as long as one of them runs, however the owner ended, and
never longer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aios_dist.errors import ConfigError

LOCK = "in-use"
"""The file with the lock: our process id, and then that of the server in the folder."""
TEMPORARY = ("aios-fleet-", "aios-redis-")
"""How the names of temporary folders begin."""
_OURS = re.compile(rf"{LOCK}|server\.log|appendonlydir|(temp|dump|appendonly).*\.(rdb|aof|manifest)")
"""What a server keeps in its folder."""
LEFT_S = 60.0
"""Seconds in which what a dead owner left must end: its workers finish the calls that they have in flight."""
LOOK_EVERY_S = 0.1


class Held:
    """A folder that is ours.

    Attributes:
        path: the folder, absolute.
        lock: the open descriptor that the lock goes with; a process that gets it has the lock as well.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.note()

    def note(self, *servers: int) -> None:
        """Write down who we are and, where one runs in the folder, the process id of the server."""
        with contextlib.suppress(OSError):  # a full disk: the lock stands all the same
            os.ftruncate(self.lock, 0)
            os.pwrite(self.lock, "".join(f"{pid}\n" for pid in (os.getpid(), *servers)).encode(), 0)

    def release(self, *, remove: bool) -> None:
        """Give it up, also for the processes that have it from us; ``remove`` the folder with all in it."""
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(self.lock, fcntl.LOCK_UN)
        os.close(self.lock)


def take(folder: str | os.PathLike[str]) -> Held:
    """Make a folder ours; it is made where it is not there.

    What an owner that is dead left in it has a minute to end.

    Raises:
        ConfigError: another process has it (named by its id), or there can be no such folder.
    """
    path = Path(folder)
    try:
        path = path.absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_private(path)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError) as exc:
        raise _impossible(path, exc) from None
    try:
        end = time.monotonic() + LEFT_S
        while not _locked(lock):
            owner, server = _noted(lock)
            if owner and _is_alive(owner):
                raise ConfigError(
                    f"The folder {str(path)!r} is in use by process {owner}: two servers on one folder lose "
                    "what both were given. End that one first, or take another folder."
                )
            if time.monotonic() > end:
                left = f"its server, process {server}" if server else "what it started"
                raise ConfigError(
                    f"The folder {str(path)!r} is in use: its owner is gone, but {left}, has not ended yet."
                )
            time.sleep(LOOK_EVERY_S)
        return Held(path, lock)
    except OSError as exc:
        os.close(lock)
        raise _impossible(path, exc) from None
    except BaseException:
        os.close(lock)
        raise


def _keep_private(path: Path) -> None:
    """Nobody else is to read, or to put something into, the folder: prompts and answers are in it, and what
    stands there is served, and run.

    Raises:
        ConfigError: it is another user's, or holds more than is ours, so that it is not ours to close; or
            another user has put something into it while he could.
        OSError: it cannot be looked at or closed.
    """
    seen = path.stat()
    if seen.st_uid != os.geteuid():
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise ConfigError(
            f"The folder {str(path)!r} belongs to another user, who can read and change what is kept there: "
            "take one of your own."
        )
    if seen.st_mode & 0o077:
        _close(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if _OURS.fullmatch(name) or Path(folder) != path:
                _check_own(path, Path(folder, name))


def _close(path: Path) -> None:
    if others := [name for name in os.listdir(path) if not _OURS.fullmatch(name)]:
        raise ConfigError(
            f"Other users of this machine can look into the folder {str(path)!r}, where prompts and answers "
            f"are to be, and there is more in it ({min(others)!r}): take a folder of its own, or close it "
            "(chmod 700)."
        )
    path.chmod(0o700)


def _check_own(path: Path, place: Path) -> None:
    """Raises ConfigError: another user has put it there, or it leads elsewhere."""
    seen = place.lstat()
    if seen.st_uid not in (0, os.geteuid()):
        whose = f"belongs to another user (uid {seen.st_uid})"
    elif stat.S_ISLNK(seen.st_mode) or (seen.st_nlink > 1 and not stat.S_ISDIR(seen.st_mode)):
        whose = "is a link"
    else:
        return
    raise ConfigError(
        f"{str(place)!r} {whose}, and jobs of a stranger's would be taken from there, or files of yours be "
        f"written over: take another folder than {str(path)!r}, or remove it."
    )


def take_temporary(prefix: str) -> Held:
    """A new temporary folder of ours; ``prefix`` is one of ``TEMPORARY``.

    Raises:
        ConfigError: there is no place for one.
    """
    assert prefix in TEMPORARY
    try:
        path = tempfile.mkdtemp(prefix=prefix)
    except OSError as exc:
        raise ConfigError(
            f"No temporary folder can be made ({exc.strerror}): set TMPDIR to one that can be written to."
        ) from None
    return take(path)


def sweep() -> None:
    """Remove the temporary folders of fleets of this user that are dead."""
    with contextlib.suppress(OSError):
        for path in _temporary():
            with contextlib.suppress(OSError):
                _sweep(path)


def _temporary() -> Iterator[Path]:
    for path in Path(tempfile.gettempdir()).iterdir():
        if path.name.startswith(TEMPORARY):
            seen = path.lstat()
            if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid():  # no link, and nobody else's
                yield path


def _sweep(path: Path) -> None:
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Without a note its owner has only just made it, and is about to lock it.
        if _noted(lock)[0] and _locked(lock):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted(lock: int) -> tuple[int, int]:
    """The owner's process id and the server's; 0 for what is not written."""
    owner, server, *_ = [*map(int, filter(bytes.isdigit, os.pread(lock, 100, 0).split())), 0, 0]
    return owner, server


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # no process: others wrote in the file
        return False
    except OSError:  # it is another user's
        return True
    return True


def _impossible(path: Path, exc: OSError | ValueError) -> ConfigError:
    said = exc.strerror if isinstance(exc, OSError) else "no file can have that name"
    if isinstance(exc, OSError) and exc.errno in (errno.ENOTSUP, errno.ENOLCK):
        said = "its file system has no locks"
    return ConfigError(f"The folder {str(path)!r} cannot be used: {said}.")
