"""What branches of a program belong to and wait for: crowds, whose members end one by one; times; steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
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


class Waiting:
    """Which branches wait for which steps, and which steps nobody waits for any more.

    A signal is an answer to a name, not to a step: one whose wait was given up is for the next wait.

    Attributes:
        branches: those that wait, by the numbers of their steps.
    """

    __slots__ = ("_given_up", "_kept", "_signals", "branches")

    def __init__(self) -> None:
        self.branches: dict[int, Any] = {}
        self._given_up: set[int] = set()
        self._signals: dict[int, str] = {}  # the names of those that are waited for, by their steps
        self._kept: dict[str, deque[Any]] = {}  # what came, and nobody waited

    def begin(self, branch: Any, number: int, signal: str | None) -> None:
        """A branch waits for a step; ``signal``: the name of one."""
        self.branches[number], branch.number = branch, number
        if signal is not None:
            self._signals[number] = signal

    def give_up(self, branch: Any) -> None:
        """It waits no more, if it did."""
        if branch.number is not None:
            del self.branches[branch.number]
            self._given_up.add(branch.number)
            branch.number = None

    def nobody_s(self, number: int) -> None:
        """The outcome of this step will come, and nobody waits for it."""
        self._given_up.add(number)

    def ended(self, number: int, outcome: Any) -> Any:
        """Whose outcome it is, who then waits no more; None: nobody's. KeyError: nobody has asked for it."""
        name = self._signals.pop(number, None) if self._signals else None
        if number in self._given_up:
            self._given_up.discard(number)
            if name is None:
                return None
            other = self._first(name, self.branches)
            if other is None:
                self._kept.setdefault(name, deque()).append(outcome)
                return None
            self._given_up.add(other)
            number = other
        branch = self.branches.pop(number)
        branch.number = None
        return branch

    def kept(self, name: str) -> Any:
        """The oldest signal of that name that came to nobody, which somebody takes now; or None."""
        kept = self._kept.get(name)
        return kept.popleft() if kept else None

    def takes_over(self, branch: Any, name: str) -> bool:
        """A branch waits for a signal; whether it does so in the place of one that gave up."""
        number = self._first(name, self._given_up)
        if number is None:
            return False
        self._given_up.discard(number)
        self.begin(branch, number, name)
        return True

    def _first(self, name: str, numbers: Collection[int]) -> int | None:
        return min((n for n in numbers if self._signals.get(n) == name), default=None)
