"""The two faces of a fleet, with and without ``await``, are one: names, parameters, what is said of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from aios_dist.producer.fleet import AsyncFleet
from aios_dist.producer.handles import AsyncJob, AsyncPlan
from aios_dist.producer.sync import Fleet, Job, PlanJobs

FACES = [(Fleet, AsyncFleet), (Job, AsyncJob), (PlanJobs, AsyncPlan)]
ONLY_ASYNC = {
    "journal": "what the sync face is made of, and nobody needs to await",
    "met": "of the connection",
    "spec": "what submit() makes of its arguments",
}
NO_FACE = {"put_aside"}
"""What a process calls that was forked; see ``threads.forks``."""


def _public(face: type) -> set[str]:
    own = {name for base in face.__mro__ if base.__module__.startswith("aios_dist") for name in vars(base)}
    return {name for name in own if not name.startswith("_")} - NO_FACE


def _function(face: type, name: str) -> Callable[..., Any] | None:
    """None: an attribute that holds a value."""
    found = inspect.getattr_static(face, name)
    if isinstance(found, property):
        return found.fget
    found = getattr(face, name)
    return found if callable(found) else None


def _as_sync(text: str) -> str:
    """As the sync face spells a name of the async one."""
    text = re.sub(r"\bAsyncPlan\b", "PlanJobs", text)
    text = re.sub(r"\bAsync(Fleet|Job|Iterator)\b", r"\1", text)
    return re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", text)


def _spelt(function: Callable[..., Any]) -> list[tuple[str, str, str, str]]:
    signature = inspect.signature(function)
    each = [(p.name, p.kind.name, str(p.annotation), repr(p.default)) for p in signature.parameters.values()]
    return [*each, ("->", "", str(signature.return_annotation), "")]


def _both() -> list[tuple[type, type, str]]:
    return [
        (sync, other, name)
        for sync, other in FACES
        for name in sorted(_public(sync) & _public(other))
        if _function(other, name) is not None
    ]


@pytest.mark.parametrize(("sync", "other"), FACES)
def test_what_can_be_asked_of_one_can_be_asked_of_the_other(sync: type, other: type) -> None:
    assert _public(sync) - _public(other) == set()
    assert _public(other) - _public(sync) <= set(ONLY_ASYNC)


@pytest.mark.parametrize(("sync", "other", "name"), _both())
def test_it_takes_and_gives_the_same(sync: type, other: type, name: str) -> None:
    mine, its = _function(sync, name), _function(other, name)
    assert mine is not None
    assert its is not None
    expected = [tuple(_as_sync(part) for part in parts) for parts in _spelt(its)]
    assert _spelt(mine) == expected


@pytest.mark.parametrize(("sync", "other", "name"), _both())
def test_the_same_is_said_of_it(sync: type, other: type, name: str) -> None:
    """All of it, or its first paragraph and where the rest stands."""
    mine, its = (inspect.getdoc(_function(face, name)) or "" for face in (sync, other))
    its = its.replace("in another task", "in another thread")
    first = re.sub(r"\s+", " ", its.split("\n\n")[0]).rstrip(".")
    assert re.sub(r"\s+", " ", mine) in {
        re.sub(r"\s+", " ", its),
        f"{first}; see :meth:`aios_dist.{other.__name__}.{name}`.",
    }
