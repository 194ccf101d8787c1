"""What a worker answers to Celery's remote control (``celery inspect``, Flower's pages), without secrets.

Celery's own ``stats`` gives the broker's options and alternative URLs as they are, passwords included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel

from aios_dist.text.masking import hide_in


def mask_replies() -> None:
    """Mask the reply of every command that this worker knows; twice is as once."""
    for name, command in list(Panel.data.items()):
        if not getattr(command, "masks", False):
            Panel.data[name] = _masking(command)


def _masking(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def answer(*args: Any, **kwargs: Any) -> Any:
        return hide_in(command(*args, **kwargs))

    answer.masks = True  # type: ignore[attr-defined]
    return answer
