"""Options that several commands take. Those for settings have type, range and help from their declaration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import click
import msgspec
from msgspec import inspect

from aios_dist.config import Kind, Setting, as_written, fault, settings_of
from aios_dist.errors import InvalidInput
from aios_dist.model.specs import Budget

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True)

NOTHING = "none"
"""How the command line says the choice that is an empty text."""


class SettingType(click.ParamType):  # type: ignore[type-arg]  # older clicks know none
    """A value of a setting; what cannot be one is refused in the words of the file."""

    def __init__(self, setting: Setting) -> None:
        self._setting = msgspec.structs.replace(
            setting, choices=tuple(choice or NOTHING for choice in setting.choices)
        )
        self.name = setting.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, in the setting's own type."""
        at = param.opts[0] if isinstance(param, click.Option) else str(param and param.metavar)
        given = _number(self._setting, value)
        if found := fault(self._setting, given, as_written, at):
            self._refuse(found, ctx)
        return "" if given == NOTHING and self._setting.choices else given

    def _refuse(self, sentence: str, ctx: click.Context | None) -> NoReturn:
        raise click.UsageError(sentence, ctx)  # not BadParameter, which says the option a second time


def _number(setting: Setting, value: Any) -> Any:
    """The number that the text is, where one is wanted and it is one."""
    kinds: dict[type, list[type]] = {inspect.IntType: [int], inspect.FloatType: [int, float]}
    for kind in kinds.get(type(setting.type), []):
        with contextlib.suppress(ValueError, OverflowError):
            return kind(value)
    return value


def setting_option(
    kind: Kind, name: str, flag: str = "", left_out: str = "", when: str = "", **more: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for a setting.

    Args:
        kind: the record that declares it.
        name: the setting's name there.
        flag: the option, which names the parameter then; by default the setting's name with dashes.
        left_out: what holds without the option, for its help.
        when: where it counts, begins its help.
        more: further arguments of :func:`click.option`.
    """
    setting = settings_of(kind)[name]
    about = setting.help().replace("`", "")
    if when:
        about = f"{when}: {about[:1].lower()}{about[1:]}"
    if left_out:
        about = f"{about.rstrip('.')}  [default: {left_out}]"
    return click.option(
        *([flag] if flag else [flag_of(setting), name]),
        metavar=metavar_of(setting),
        type=SettingType(setting),
        help=about,
        **more,
    )


def setting_options(
    kind: Kind, *names: str, when: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for several settings of one record, in that order; see :func:`setting_option`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = setting_option(kind, name, when=when)(command)
        return command

    return decorate


def needs_one(kind: Kind, wanted: Mapping[str, Any]) -> None:
    """Raises InvalidInput: nothing is to be set; names what could be."""
    if all(value is None for value in wanted.values()):
        settings = settings_of(kind)
        known = (f"{flag_of(settings[name])} {metavar_of(settings[name])}" for name in wanted)
        raise InvalidInput(f"Say what to set: {', '.join(known)}.")


def flag_of(setting: Setting) -> str:
    """The option for a setting: ``--max-in-flight``."""
    return f"--{setting.name.replace('_', '-')}"


def metavar_of(setting: Setting) -> str:
    """What stands for its value in helps: N, X, two choices, or its first letter."""
    if len(setting.choices) == 2:
        return "|".join(choice or NOTHING for choice in setting.choices)
    letters: dict[type, str] = {inspect.IntType: "N", inspect.FloatType: "X"}
    return letters.get(type(setting.type), setting.name[0].upper() if setting.choices else "TEXT")


# What a job may cost, on `submit` and on `job resume` ------------------------------------------------

on_budget_option = setting_option(Budget, "on_budget", left_out="pause")
"""At the submission only: the job keeps it."""


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--budget-tokens`` and ``--budget-money``."""
    for name in ("money", "tokens"):
        command = setting_option(Budget, name, flag=f"--budget-{name}")(command)
    return command


def budget_of(
    tokens: int | None, money: float | None, on_budget: Literal["pause", "fail"] | None = None
) -> Budget | None:
    """What the options say; None when they say nothing.

    Raises:
        InvalidInput: ``--on-budget`` without a budget.
    """
    if tokens is None and money is None:
        if on_budget is not None:
            raise InvalidInput("--on-budget goes with --budget-tokens or --budget-money.")
        return None
    return Budget(tokens=tokens, money=money, on_budget=on_budget or "pause")
