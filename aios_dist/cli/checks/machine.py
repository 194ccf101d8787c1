"""This machine: packages, modules of agents, models with their keys, open files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from aios_dist.cli.checks import Finding, ok, problem, raised, warning
from aios_dist.cli.entry import installed
from aios_dist.config import DEFAULT_POOLS, FILES_BESIDE_CALLS, Config
from aios_dist.errors import ConfigError
from aios_dist.journal import Registry
from aios_dist.program import imports as modules

NEEDED = {"celery": (5, 7), "kombu": (5, 7), "redis": (6, 4)}
"""As in pyproject.toml: older ones run, and lose messages."""


def packages() -> Iterator[Finding]:
    """The versions of what we stand on."""
    for package, least in NEEDED.items():
        found = installed(package) or "0"
        wanted = ".".join(map(str, least))
        if tuple(int(n) for n in re.findall(r"\d+", found)[:2]) < least:
            yield problem("packages", f"{package} {found} is too old.", f"pip install '{package}>={wanted}'")
    names = ", ".join(f"{package} {installed(package)}" for package in NEEDED)
    yield ok("packages", f"{names}.")


def agents(config: Config) -> Iterator[Finding]:
    """The modules that define agents can be imported."""
    try:
        modules.load(config)
    except ConfigError as exc:
        yield raised("agents", exc, "Put it on PYTHONPATH, or correct [fleet] modules in aios.toml.")
        return
    if config.fleet.modules:
        yield ok("agents", f"Imported {', '.join(config.fleet.modules)}.")


def models(
    config: Config, registry: Registry | None, env: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Each model has its package and its key, here or on the workers that serve it.

    Keys are the workers' alone: on a machine that only submits, a model that workers serve needs none.
    """
    served = {model for worker in (registry.workers if registry else []) for model in worker.models}
    try:
        from aios_dist.worker.providers import check_model
    except ConfigError as exc:
        if served.issuperset(config.models):
            yield ok("models", "This machine only submits; workers elsewhere serve every model.")
        else:
            yield problem("models", "This machine cannot run workers, and some model is on none.", str(exc))
        return
    for name, model in config.models.items():
        try:
            check_model(name, model, env)
        except ConfigError as exc:
            if name in served:
                yield ok(
                    "models",
                    f"Model {name!r} is served by workers; this machine has no key for it, and needs none.",
                )
            else:
                yield raised("models", exc, "Correct aios.toml.")
        else:
            yield ok("models", f"Model {name!r} has what it needs.")
    if not config.models and not served:
        yield problem(
            "models", "There is no model.", "Add [models.small] to aios.toml: provider, model, api_key_env."
        )


def open_files(config: Config) -> Iterator[Finding]:
    """Each call in flight is a connection, and each connection an open file."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pools = {**DEFAULT_POOLS, **config.pools}
    name, pool = max(pools.items(), key=lambda item: item[1].slots)
    wanted = pool.slots + FILES_BESIDE_CALLS
    fix = f"Raise it to {wanted}: ulimit -n {wanted}, LimitNOFILE= (systemd), ulimits: nofile (compose)."
    if resource.RLIM_INFINITY != hard < wanted:
        yield problem(
            "open files",
            f"{hard:,} open files are too few for the {pool.slots:,} slots of pool {name!r}.",
            fix,
        )
    elif resource.RLIM_INFINITY != soft < wanted:
        yield warning(
            "open files",
            f"{soft:,} open files are too few for the {pool.slots:,} slots of pool {name!r}; "
            "`aios-dist worker` raises that itself, `celery -A workers…` does not.",
            fix,
        )
    else:
        yield ok("open files", f"{soft if soft >= 0 else 'Any number of'} open files are enough.")
