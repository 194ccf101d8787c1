"""Errors in words: one line for people, and where in the user's code one came from.

An error must never fail to be written: whatever a user's class makes of its own text, there are words.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any

from aios_dist.text.lines import harmless

FRAMES = 20
"""Of one error, at the most; the innermost are kept, and where it began."""

LIMIT = 4096
"""Characters of a whole traceback."""

LINKS = 4
"""Causes, and members of a group, that are followed."""

OURS = ("aios_dist", "asyncio")
"""Packages whose frames say nothing to the user."""


MESSAGE_LIMIT = 64 * 1024
"""Characters of a message; more is cut in its middle."""


def name_of(kind: type) -> str:
    """The name of a class, whatever its metaclass says."""
    return str.__str__(type.__dict__["__name__"].__get__(kind))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Where it was raised, whatever the user's class makes of it."""
    place = BaseException.__dict__["__traceback__"].__get__(error)
    return place if isinstance(place, TracebackType) else None


def text_of(error: BaseException) -> str:
    """The error's message, whatever the user's class makes of it; cut where it is longer than a message."""
    try:
        text = str(error)
        if len(text) > MESSAGE_LIMIT:
            half = MESSAGE_LIMIT // 2
            text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"
        return str.encode(text, "utf-8", "backslashreplace").decode()
    except BaseException as exc:
        return f"(its message cannot be had: {name_of(type(exc))})"


def describe(error: BaseException) -> str:
    """One line for people: the class, and the message if there is one."""
    text = " ".join(line.strip() for line in text_of(error).splitlines())
    name = name_of(type(error))
    return f"{name}: {text}" if text else name


def related(error: BaseException, limit: int = 20) -> Iterator[BaseException]:
    """The error, what it was raised from or beside, and the members of groups; at most ``limit`` of them."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo and len(seen) < limit:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            todo.extend(one.exceptions[:limit])
        todo.append(_before(one)[1])


def user_traceback(error: BaseException, *, causes: bool = True) -> str:
    """Where the error came from: the user's own frames, innermost last, and in short what led to it.

    Only places and lines of code, never values of variables. What the error brought from another process
    (``traceback`` of a :class:`~aios_dist.errors.StepError`) follows its frames here.

    Args:
        error: any exception; one without frames of the user's gives "".
        causes: also what it was raised from or beside, and the members of a group.

    Returns:
        Text of at most ``LIMIT`` characters.
    """
    try:
        text = "\n".join(_lines(error, LINKS if causes else 0, set()))
        text = harmless(text.encode("utf-8", "backslashreplace").decode())
    except BaseException:  # the user's classes again
        return ""
    half = LIMIT // 2 - 2
    return text if len(text) <= LIMIT else f"{text[:half]}\n…\n{text[-half:]}"


def waits_at(awaiting: object) -> str:
    """Where in the user's code a coroutine (or what else can be awaited) waits: its innermost line, or ""."""
    found = ""
    for _ in range(1000):  # of awaits in each other
        frame = None
        for kind in ("cr_frame", "gi_frame", "ag_frame"):
            frame = frame or getattr(awaiting, kind, None)
        if frame is not None and frame.f_lineno is not None and not _ours(frame.f_globals):
            found = _line(frame.f_code, frame.f_lineno, frame.f_globals)
        for inner in ("cr_await", "gi_yieldfrom", "ag_await"):
            if (next_ := getattr(awaiting, inner, None)) is not None:
                break
        else:
            return found
        awaiting = next_
    return found


def _lines(error: BaseException, links: int, seen: set[int]) -> list[str]:
    seen.add(id(error))
    lines = _frames(traceback_of(error))
    brought = getattr(error, "traceback", None)
    if isinstance(brought, str) and brought:
        lines += ["In the step:", brought] if lines else [brought]
    if links <= 0:
        return lines
    if isinstance(error, BaseExceptionGroup):
        for place, member in enumerate(error.exceptions[:links], start=1):
            title = f"Member {place} of {len(error.exceptions)}: {describe(member)[:200]}"
            lines += [title, *_lines(member, links - 1, seen)]
    how, before = _before(error)
    if before is not None and id(before) not in seen:
        rest = _lines(before, links - 1, seen)
        # What was only put into another class (a tool's error) is the error itself.
        lines += rest if not lines and how == "Caused by" else [f"{how} {describe(before)[:200]}", *rest]
    return lines if any(line.startswith("  File") for line in lines) or brought else []


def _before(error: BaseException) -> tuple[str, BaseException | None]:
    if error.__cause__ is not None:
        return "Caused by", error.__cause__
    return "While handling", None if error.__suppress_context__ else error.__context__


def _frames(traceback: TracebackType | None) -> list[str]:
    places: list[TracebackType] = []
    while traceback is not None:
        if not _ours(traceback.tb_frame.f_globals):
            places.append(traceback)
        traceback = traceback.tb_next
    head, tail = FRAMES // 4, FRAMES - FRAMES // 4
    if len(places) <= FRAMES:
        return [_frame(place) for place in places]
    between = f"  … {len(places) - FRAMES} frames …"
    return [*map(_frame, places[:head]), between, *map(_frame, places[-tail:])]


def _ours(names: dict[str, Any]) -> bool:
    module = names.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] in OURS


def _frame(place: TracebackType) -> str:
    return _line(place.tb_frame.f_code, place.tb_lineno or 0, place.tb_frame.f_globals)


def _line(code: CodeType, number: int, names: dict[str, Any]) -> str:
    try:
        source = linecache.getline(code.co_filename, number, names).strip()
    except Exception:  # a loader of the user's
        source = ""
    where = f'  File "{code.co_filename[-120:]}", line {number}, in {code.co_qualname[-80:]}'
    return f"{where}\n    {source[:160]}" if source else where
