"""``aios-dist model list | set``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.entry import Commands
from aios_dist.cli.options import as_json_option, needs_one, setting_options
from aios_dist.cli.output import iso, moment, of_most, print_json, print_table, to_come, without_usage
from aios_dist.cli.session import on_journal
from aios_dist.config import ModelConfig, load
from aios_dist.errors import UnknownName

if TYPE_CHECKING:
    from aios_dist.journal import Journal, ModelView

LIMITS = ("max_in_flight", "requests_per_minute", "tokens_per_minute")

model = Commands("model")


@model.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """Models with their limits, calls and holds.

    Against the limits count the calls in flight, and those of the last 60 s.
    """

    async def look(journal: Journal) -> tuple[list[ModelView], list[str]]:
        from aios_dist.journal import Said

        config = load()
        said = Said(models=Said.of(config, config.models).models)
        return await journal.model_views(sorted(await _known(journal))), await journal.unsaid(said)

    views, unsaid = on_journal(look)
    if as_json:
        print_json([_record(view) for view in views])
        return
    print_table(
        (
            *("MODEL", ">IN FLIGHT", ">REQUESTS/MIN", ">TOKENS/MIN", ">HELD", ">FAILED IN A ROW"),
            *("HOLD UNTIL", "USAGE"),
        ),
        (
            (
                v.name,
                of_most(v.in_flight, v.limits.in_flight),
                of_most(v.requests, v.limits.requests_per_minute),
                of_most(v.tokens, v.limits.tokens_per_minute),
                v.held,
                v.failures,
                moment(v.hold_until),
                f"{without_usage(v)}: estimates stand" if v.without_usage else "",
            )
            for v in views
        ),
        empty="No models. Add [models.small] to aios.toml: provider, model, api_key_env.",
    )
    to_come(unsaid)


@model.command("set")
@click.argument("name")
@setting_options(ModelConfig, *LIMITS)
@as_json_option
def set_(name: str, as_json: bool, **wanted: Any) -> None:
    """Change limits in the running fleet, from the next call on.

    0 is no limit. What is not named stays as it is. The limits hold until they are changed again, or until a
    worker starts whose aios.toml says something new.
    """
    needs_one(ModelConfig, wanted)

    async def work(journal: Journal) -> ModelView:
        from aios_dist.journal import Limits

        known = await _known(journal)
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UnknownName(f"There is no model {name!r}; known are {names}.")
        now = (await journal.model_views([name]))[0].limits
        before = (now.in_flight, now.requests_per_minute, now.tokens_per_minute)
        asked = [old if wanted[of] is None else wanted[of] for of, old in zip(LIMITS, before, strict=True)]
        await journal.set_limits(name, Limits(asked[0], asked[1], asked[2]))
        return (await journal.model_views([name]))[0]

    view = on_journal(work)
    if as_json:
        print_json(_record(view))
        return
    limits = view.limits
    parts = [
        f"{limits.in_flight} calls in flight" if limits.in_flight else "",
        f"{limits.requests_per_minute} requests a minute" if limits.requests_per_minute else "",
        f"{limits.tokens_per_minute} tokens a minute" if limits.tokens_per_minute else "",
    ]
    print(f"{name}: {', '.join(filter(None, parts)) or 'no limit'}")


async def _known(journal: Journal) -> set[str]:
    """The models of aios.toml, and those that workers have registered."""
    return {*load().models, *(await journal.registry()).models}


def _record(view: ModelView) -> dict[str, Any]:
    return {
        "name": view.name,
        "max_in_flight": view.limits.in_flight or None,
        "requests_per_minute": view.limits.requests_per_minute or None,
        "tokens_per_minute": view.limits.tokens_per_minute or None,
        "in_flight": view.in_flight,
        "requests": view.requests,
        "tokens": view.tokens,
        "steps_held": view.held,
        "failures": view.failures,
        "hold_until": iso(view.hold_until),
        "answers": view.answers,
        "answers_without_usage": view.without_usage,
    }
