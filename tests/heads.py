"""Heads of steps, for tests that have no journal."""

from __future__ import annotations

from typing import Any

import msgspec

from aios_dist.journal.heads import Head


def new_head(kind: str, lane: str, label: str, **more: Any) -> Head:
    """That of a step that is ready, as Lua makes it: all that is not said is 0 or empty."""
    empty = {f.name: "" if f.type is str else 0 for f in msgspec.structs.fields(Head) if f.required}
    return Head(**{**empty, "kind": kind, "lane": lane, "label": label, "state": "ready", **more})
