"""Telling an agent's ``finally`` whether it is its end, or only where this process lets go of it."""

from __future__ import annotations

import threading


class HandOver(BaseException):
    """Raised at an agent's await where this process lets go of it.

    It goes on elsewhere or later, from its journal; or its job was ended by somebody else. What its
    ``finally`` blocks await then is not done: it raises this again.
    """


class _Dropping(threading.local):
    value = False


dropping = _Dropping()
"""Whether a program is dropped on this thread just now."""


def handed_over() -> bool:
    """Whether an agent's ``finally`` or ``except`` block runs only because this process lets go of it.

    False where the agent itself comes to its end, and outside of agents.
    """
    return dropping.value
