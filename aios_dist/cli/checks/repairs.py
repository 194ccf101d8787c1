"""What was put right after a write that broke, what could not be, and what nobody can serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aios_dist.cli.checks.finding import Finding, ok, problem, warning
from aios_dist.cli.output import needed, steps_wait

if TYPE_CHECKING:
    from aios_dist.journal import Need, Registry, Repairs


def repairs(found: Repairs) -> Iterator[Finding]:
    """Nothing is left half-done, and every record can be read."""
    for job, why in list(found.aside.items())[:10]:
        yield problem(
            "journal",
            f"Job {job!r} is set aside: {why}.",
            "What wrote to Redis besides aios_dist? Submit the job again under another id; all others go on.",
        )
    more = len(found.aside) - 10
    if more > 0:
        yield problem("journal", f"{more} more jobs are set aside.", "See above.")
    if found.marked:
        yield ok("journal", f"{found.marked} jobs are being changed, or looked at by the reconciler next.")
    times = sum(found.counts.values())
    if times:
        counted = ", ".join(f"{what} {count}" for what, count in sorted(found.counts.items()))
        yield warning(
            "journal",
            f"The journal was put right {times} times after writes that broke ({counted}).",
            "Nothing is lost. The workers' logs say what it was: please report it.",
        )


def needs(found: Sequence[Need]) -> Iterator[Finding]:
    """Whatever waits has a worker that can serve it."""
    for need in found:
        if need.served:
            continue
        yield problem(
            "workers",
            f"{steps_wait(need.steps)} on lane {need.lane!r} for a worker with {needed(need.need)}: "
            "none that runs has it.",
            "Start one with it: add it to the workers' aios.toml ([models.*]; [fleet] modules for agents).",
        )


def registry(found: Registry) -> Iterator[Finding]:
    """Every entry of the registry is one that this version understands."""
    if found.odd:
        named = ", ".join(map(repr, found.odd[:3])) + (" …" if len(found.odd) > 3 else "")
        yield warning(
            "registry",
            f"Entries that this version does not understand are passed over: {named}.",
            "If no newer version of aios_dist runs in this fleet: what else writes to its Redis?",
        )
