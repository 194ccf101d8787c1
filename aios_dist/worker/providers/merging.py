"""Puts the pieces together in which a stream brings what is neither text nor a call's arguments."""

from __future__ import annotations

from typing import Any

_ONCE = frozenset({"id", "type", "index", "format", "role", "name", "object", "url", "title", "expires_at"})
"""Fields that servers repeat in each piece; all other text goes on."""


def merged(known: Any, piece: Any) -> Any:
    """What is known of a value, and the piece of it that has come: texts and lists go on, objects field by
    field. Entries of lists with an ``index`` are found by it. ``known`` may be changed."""
    if piece is None:
        return known
    if isinstance(known, str) and isinstance(piece, str):
        return known + piece
    if isinstance(known, dict) and isinstance(piece, dict):
        for name, value in piece.items():
            known[name] = value if name in _ONCE or name not in known else merged(known[name], value)
        return known
    if isinstance(known, list) and isinstance(piece, list):
        for entry in piece:
            place = _place(known, entry)
            if place is None:
                known.append(entry)
            else:
                known[place] = merged(known[place], entry)
        return known
    return piece


def _place(known: list[Any], entry: Any) -> int | None:
    index = entry.get("index") if isinstance(entry, dict) else None
    if index is None:
        return None
    return next(
        (n for n, one in enumerate(known) if isinstance(one, dict) and one.get("index") == index), None
    )


def grown(parts: list[Any], part: Any) -> None:
    """The next part of a content; one that goes on from the last is put together with it."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    last = parts[-1] if parts else None
    if isinstance(last, dict) and isinstance(part, dict) and last.get("type") == part.get("type"):
        for name in ("text", "thinking"):
            if isinstance(last.get(name), str) and isinstance(part.get(name), str):
                last[name] += part[name]
                return
            if isinstance(last.get(name), list) and isinstance(part.get(name), list):
                for inner in part[name]:
                    grown(last[name], inner)
                return
    parts.append(part)
