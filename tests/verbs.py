"""The verbs on a Redis that has been at work: it knows them, and nobody has to load them."""

from __future__ import annotations

import contextlib

import redis

from aios_dist.journal import scripts


def load_verbs(client: redis.Redis) -> None:
    """As functions; who goes by scripts has these too."""
    library = scripts.load()["commit"].library
    with contextlib.suppress(redis.ResponseError):  # it is there
        client.function_load(library.text)
    for verb in scripts.load().values():
        client.script_load(verb.source)
