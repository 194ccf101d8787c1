"""The branches of a program: begun, woken, and stopped where nobody waits for them any more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from aios_dist.program.bounds import NONE_LEFT
from aios_dist.program.branches import Branch, Raised, drop, just
from aios_dist.program.crowds import Crowd, Ended, Member, Scope, Waiting

WAITS: Any = object()
"""In the place of an answer: there is none yet."""


class Tending:
    """The part of a replay that looks after branches."""

    def __init__(self) -> None:
        self._open: dict[Branch, None] = {}  # begun and not ended, in the order of beginning
        self._waiting = Waiting()
        self._runnable: deque[tuple[Branch, Any]] = deque()
        self._scopes: dict[int, Scope] = {}  # of times that run, by their steps

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        parent: Branch | None,
        index: int,
        source: Any = None,
    ) -> Branch:
        branch = Branch(coroutine, context, parent, index, source)
        self._open[branch] = None
        return branch

    def _wake(self, branch: Branch, answer: Any) -> None:
        branch.queued = True
        self._runnable.append((branch, answer))

    def _begin_later(self, whose: Branch | Crowd) -> None:
        """Begin the next branch of what a branch wants, or of a crowd."""
        place, child, fresh = whose.later.popleft()
        coroutine = child if fresh else just(child)
        if isinstance(whose, Crowd):
            begun = self._begin(coroutine, whose.owner.context.copy(), None, place, child)
            begun.crowd = whose
            whose.members[begun] = None
        else:
            begun = self._begin(coroutine, whose.context.copy(), whose, place, child)
            whose.children[begun] = None
        self._wake(begun, None)

    def _next_of(self, crowd: Crowd, branch: Branch) -> Any:
        if crowd.ended:
            ended = crowd.ended.popleft()
            branch.failures += ended.failures
            return ended
        if not crowd.members:
            return NONE_LEFT
        crowd.waiter, branch.awaits = branch, crowd
        return WAITS

    def _leave(self, what: Crowd | list[Scope], branch: Branch) -> bool:
        if isinstance(what, list):
            mine = [scope for scope in what if scope.branch is branch] or what  # a closing leaves another's
            what.remove(scope := mine[-1])
            if self._scopes.pop(scope.number, None) is not None:
                self._waiting.nobody_s(scope.number)
            return scope.expired
        self._forget(what.later)
        for member in [*what.members]:
            member.crowd = None
            self._interrupt(member)
        what.members.clear()
        return False

    def _interrupt(self, branch: Branch) -> None:
        """End what a branch awaits, whatever it is: a CancelledError there, and in those it waits for."""
        todo, found = [branch], []  # as deep as a program likes
        while todo:
            one = todo.pop()
            found.append(one)
            if not one.queued:
                todo += one.children
        for one in reversed(found):
            if one is not branch:
                one.parent = one.crowd = None
            if not one.begun:
                one.gone = True
                self._open.pop(one, None)
                one.coroutine.close()
                drop(one.source)
            elif one.queued:  # its answer is lost
                one.interrupted = True
            else:
                self._waits_no_more(one)
                self._wake(one, Raised(asyncio.CancelledError()))

    def _waits_no_more(self, branch: Branch) -> None:
        self._waiting.give_up(branch)
        if branch.awaits is not None:
            branch.awaits.waiter = None
            branch.awaits = None
        self._forget(branch.later)
        branch.children.clear()
        branch.left, branch.results = 0, []
        branch.pending, branch.caught = [], []

    def _forget(self, later: deque[Member]) -> None:
        """These branches have not begun, and are not going to."""
        while later:
            drop(later.popleft().child)

    def _ended_in(self, crowd: Crowd, branch: Branch, answer: Any) -> None:
        crowd.members.pop(branch, None)
        if isinstance(answer, Raised):
            crowd.ended.append(Ended(None, answer.error, branch.failures))
        else:
            crowd.ended.append(Ended(answer, None, branch.failures))
        if crowd.later:
            self._begin_later(crowd)
        waiter = crowd.waiter
        if waiter is not None:
            crowd.waiter = waiter.awaits = None
            self._wake(waiter, self._next_of(crowd, waiter))
