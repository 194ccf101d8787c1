"""What ``aios-dist doctor`` looks at. Each check gives findings; what is wrong comes with its fix."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from aios_dist.errors import AiosError


class Level(StrEnum):
    """How bad it is. A problem loses work, or keeps it from being done; a warning may."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, how it stands, and, unless that is well, what to do."""

    check: str
    level: Level
    what: str
    fix: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, fix: str) -> Finding:
    """It may become a problem."""
    return Finding(check, Level.WARNING, what, fix)


def problem(check: str, what: str, fix: str) -> Finding:
    """It is one."""
    return Finding(check, Level.PROBLEM, what, fix)


def raised(check: str, exc: AiosError, fix: str) -> Finding:
    """An error is one; ``fix`` for an error that knows none itself."""
    if not exc.fix:
        return problem(check, str(exc), fix)
    return problem(check, f"{exc.what}.", f"{exc.fix[:1].upper()}{exc.fix[1:]}.")
