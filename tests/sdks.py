"""The official SDKs, imported by the first test that asks one.

Each takes a second or two, and every process of a run collects all tests.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks what it finds in a module whether it is a fixture
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


anthropic: Any = _Later("anthropic")
openai: Any = _Later("openai")
