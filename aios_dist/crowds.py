"""What branches of a program belong to: crowds, whose members end one by one, and times that run."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class Member(NamedTuple):
    """A branch that has not begun: its place, and whether it is a coroutine that nobody else awaits."""

    place: int
    child: Any
    fresh: bool


class Ended(NamedTuple):
    """What a member of a crowd came to; ``failures``: steps whose failure it has not gone on from."""

    value: Any
    error: BaseException | None
    failures: list[int]


class Crowd:
    """Branches that were begun by ``as_done()``.

    Attributes:
        owner: the branch that began them.
        members: those that go on.
        later: those that have not begun.
        ended: what came to an end, and nobody has asked for.
        waiter: the branch that waits for the next one.
    """

    __slots__ = ("ended", "later", "members", "owner", "waiter")

    def __init__(self, owner: Any, later: deque[Member]) -> None:
        self.owner = owner
        self.members: dict[Any, None] = {}
        self.later = later
        self.ended: deque[Ended] = deque()
        self.waiter: Any = None


class Scope:
    """A time that runs.

    Attributes:
        branch: whose awaits it bounds.
        number: its step.
        expired: it was over while it was open.
    """

    __slots__ = ("branch", "expired", "number")

    def __init__(self, branch: Any, number: int) -> None:
        self.branch = branch
        self.number = number
        self.expired = False
