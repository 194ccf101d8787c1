"""Answers that are there and not written yet: Redis refuses them for now. None is lost unsaid.

A worker that must end with such answers in hand says which, and saves them in ``spool_dir`` where that is
set: its next life writes them before it takes a ticket. The files hold what providers answered, and no keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aios_dist.journal import Claim
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobRecord, Kind

logger = logging.getLogger("aios_dist.spool")

NOBODY = JobRecord(agent="", input={})
OF_CLAIM = ("job", "step", "attempt", "kind", "label", "token", "basis", "digest", "worker")
MOST_NAMED = 20
"""Steps named in a log line."""


class Answer(msgspec.Struct, frozen=True):
    """An outcome with all that its commit needs, as ``commit`` takes it."""

    fleet: str
    job: str
    step: str
    attempt: int
    kind: Kind
    label: str
    token: str
    basis: str
    digest: str
    worker: str
    ok: bool
    outcome: bytes
    usage: Usage = Usage()
    money: float = 0.0

    @classmethod
    def of(cls, fleet: str, claim: Claim, outcome: bytes, ok: bool, usage: Usage, money: float) -> Answer:
        """The outcome of a claim."""
        own = {name: getattr(claim, name) for name in OF_CLAIM}
        return cls(fleet=fleet, ok=ok, outcome=outcome, usage=usage, money=money, **own)

    def claim(self) -> Claim:
        """The claim that it answers, without what a commit does not look at."""
        own = {name: getattr(self, name) for name in OF_CLAIM}
        return Claim(record=NOBODY, request=b"", version=0, ready_us=0, started_us=0, **own)

    @property
    def file(self) -> str:
        """The name of its file: the same for the same claim."""
        mark = hashlib.blake2b(f"{self.fleet} {self.claim().lease}".encode(), digest_size=16).hexdigest()
        return f"{mark}.answer"


class Answers:
    """The answers of one worker that are on their way into the journal.

    Args:
        fleet: the fleet's name.
        folder: where they are saved; None: nowhere.
    """

    def __init__(self, fleet: str, folder: Path | None) -> None:
        self._fleet = fleet
        self._folder = folder
        self._held: dict[str, Answer] = {}
        self._said = False

    @contextlib.contextmanager
    def held(self, claim: Claim, outcome: bytes, ok: bool, usage: Usage, money: float) -> Iterator[None]:
        """Around a commit: until it is over, the answer is only here."""
        self._held[claim.lease] = Answer.of(self._fleet, claim, outcome, ok, usage, money)
        yield
        del self._held[claim.lease]  # not where it was broken off

    def save(self) -> None:
        """The worker ends: save what is in hand, and say what is lost. From any thread, and once."""
        answers = list(self._held.values())
        if self._said or not answers:
            return
        self._said = True
        lost = []
        for answer in answers:
            try:
                if self._folder is None:
                    raise OSError("no spool_dir is set")
                write(self._folder, answer)
            except OSError as exc:
                lost.append((answer, exc))
        if len(answers) > len(lost):
            logger.warning(
                "Saved %d answers that Redis does not take in %s: %s. The next worker here writes them.",
                len(answers) - len(lost),
                self._folder,
                _names([a for a in answers if all(a is not other for other, _ in lost)]),
            )
        if lost:
            logger.error(
                "LOST %d answers that Redis does not take (%s): %s. Their steps are run again.",
                len(lost),
                lost[0][1],
                _names([answer for answer, _ in lost]),
            )


def _names(answers: list[Answer]) -> str:
    names = [f"{answer.job}/{answer.step}" for answer in answers]
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def write(folder: Path, answer: Answer) -> Path:
    """One file, whole or not at all, that only its owner reads.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = folder / answer.file
    handle, half = tempfile.mkstemp(dir=folder, suffix=".half")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.msgpack.encode(answer))
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise
    return place


def read(folder: Path, fleet: str) -> Iterator[tuple[Path, Answer]]:
    """What an earlier life of a worker of this fleet has left. What is no answer is put aside, and said."""
    for place in sorted(folder.glob("*.answer")):
        try:
            answer = msgspec.msgpack.decode(place.read_bytes(), type=Answer)
        except FileNotFoundError:
            continue  # another worker of this machine has it
        except (OSError, ValueError) as exc:
            logger.error("%s is no saved answer (%s); it stays as %s.bad.", place, exc, place.name)
            with contextlib.suppress(OSError):
                place.rename(place.with_name(f"{place.name}.bad"))
            continue
        if answer.fleet == fleet:
            yield place, answer
