"""What waits for something else than a slot: models on hold, jobs without budget, dead letters, repairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aios_dist.cli.checks import Finding, ok, problem, warning
from aios_dist.cli.output import clock, resume_command, steps_wait, without_usage
from aios_dist.model import costs

if TYPE_CHECKING:
    from aios_dist.journal import DeadLetter, JobView, ModelView, Registry, Repairs, TenantView

SOME = 20
"""One answer in so many without usage is worth a word."""

MOST = 1000
"""Jobs and dead letters that are looked at."""


def models(views: Sequence[ModelView]) -> Iterator[Finding]:
    """No model is held by what it answers; steps that a limit holds are named."""
    for view in views:
        waits = f", {steps_wait(view.held)} for it" if view.held else ""
        if view.hold_until:
            yield warning(
                "holds",
                f"Nobody calls model {view.name!r} until {clock(view.hold_until)}: "
                f"{view.failures} failures in a row{waits}.",
                "It goes on by itself. If that does not last: look at the errors (aios-dist job show ID), at "
                "the provider, and at the limits in aios.toml.",
            )
        elif view.held:
            yield ok("holds", f"Model {view.name!r} is at its limit; {steps_wait(view.held)} for it.")
        if view.without_usage * SOME >= max(1, view.answers):
            yield warning(
                "usage",
                f"Model {view.name!r} {without_usage(view)}: estimates stand in limits, budgets and money.",
                "They are as good as max_tokens says. Perhaps the provider counts if it is asked to "
                "(options in [models.NAME]), or a proxy between takes the counts away.",
            )


def prices(registry: Registry, tenants: Sequence[TenantView]) -> Iterator[Finding]:
    """Budgets of money see every call."""
    unpriced = registry.unpriced()
    if not unpriced:
        return
    said, fix = costs.without_price(unpriced)
    limited = [tenant.name for tenant in tenants if tenant.money_per_day]
    if limited:
        yield warning("prices", f"{said}; tenant {limited[0]!r} has one.", fix)
    else:
        yield ok("prices", f"{said}.")


def jobs(views: Sequence[JobView]) -> Iterator[Finding]:
    """Jobs whose budget is used up wait for a person."""
    spent = [view for view in views if view.state == "paused" and view.spent]
    if spent:
        one = spent[0]
        several = f" and {len(spent) - 1} more" if len(spent) > 1 else ""
        yield warning(
            "budgets",
            f"Job {one.id!r}{several} paused: {one.why}.",
            f"{resume_command(one)}; a new budget counts the {one.usage.total_tokens} tokens spent so far, a "
            "tenant's is new on the next day (UTC).",
        )


def parked(views: Sequence[JobView]) -> Iterator[Finding]:
    """Jobs whose agent's code has changed wait for code that fits, and plans behind them wait with them."""
    by_agent: dict[str, list[JobView]] = {}
    large = [view for view in views if view.over_limit]
    if large:
        yield warning(
            "parked",
            f"Job {large[0].id!r}{_more([view.id for view in large])} parked: {large[0].why}.",
            f"See aios-dist job show {large[0].id} --prompts. It goes on with {resume_command(large[0])}.",
        )
    for view in views:
        if view.over_limit:
            continue
        by_agent.setdefault(view.agent, []).append(view)
    for agent, some in by_agent.items():
        one, count = some[0], "1 job" if len(some) == 1 else f"{len(some)} jobs"
        plans = sorted({view.plan for view in some if view.plan})
        waits = f" Plan {plans[0]!r}{_more(plans)} waits for that." if plans else ""
        yield warning(
            "parked",
            f"{count} of agent {agent!r} parked, {one.id!r} for one: {one.why.splitlines()[0]}{waits}",
            f"{_by_themselves(some)}With other code that "
            f"fits: aios-dist job resume --agent {agent} --state parked. Where that asks for something else "
            "from step K on: with --from-step K. See docs/deploy.md.",
        )


def _by_themselves(views: Sequence[JobView]) -> str:
    codes = sorted({view.parked_for for view in views} - {""})
    if not codes:
        return ""
    who = "They go" if all(view.parked_for for view in views) else "Some go"
    return f"{who} on by themselves when a worker has code {codes[0]}{_more(codes)} of it. "


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def dead_letters(letters: Sequence[DeadLetter]) -> Iterator[Finding]:
    """Steps that were given up wait for a person."""
    if letters:
        count = f"{len(letters)} steps have" if len(letters) > 1 else "1 step has"
        yield warning(
            "dead letters",
            f"{count} lost every worker that tried; the last: {letters[0].job}, step {letters[0].step}.",
            f"aios-dist dead show {letters[0].job}; then aios-dist dead retry or dead drop.",
        )


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
