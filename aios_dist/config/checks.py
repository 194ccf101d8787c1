"""What cannot be though each setting by itself can: names, what must fit together, what must be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aios_dist.config.bounds import LEAST_REDIS_TIMEOUT_S, NAME, RESERVED_LANES
from aios_dist.config.declared import settings_of
from aios_dist.config.faults import fault, fault_of
from aios_dist.config.redis_urls import check_url
from aios_dist.config.tables import Config, LaneConfig, ModelConfig, PromptsConfig, TenantConfig
from aios_dist.config.words import as_written
from aios_dist.errors import ConfigError


def check(config: Config, source: str, given: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """All checks of a whole configuration.

    Args:
        config: each of its settings is in its own range.
        source: the file; begins the sentence.
        given: what ``[fleet]`` says, without defaults.
        variables: settings of ``[fleet]`` that come from the environment, and from which variable.

    Raises:
        ConfigError: one sentence that names the place.
    """
    odd_name = _odd_name("fleet", config.fleet.name)
    if odd_name:
        raise ConfigError(f"{variables.get('name', source)}: {odd_name}")
    for each in (_names, _lanes):
        _refuse(source, each(config))
    check_url(variables.get("redis_url", source), config.fleet.redis_url)
    for each in (_leases, _backoffs, _fallbacks, _default_model, _models_of_agents):
        _refuse(source, each(config))
    if "redis_timeout" in given:
        _refuse(source, _redis_timeout(config))


def _refuse(source: str, sentences: Iterator[str]) -> None:
    for sentence in sentences:
        raise ConfigError(f"{source}: {sentence}")


def _odd_name(kind: str, name: str) -> str:
    if NAME.fullmatch(name):
        return ""
    return (
        f"{kind} name {as_written(name)} must be letters, digits and . _ : - (at most 128), "
        "and begin with a letter or digit."
    )


def _names(config: Config) -> Iterator[str]:
    for kind, names in (
        ("model", config.models),
        ("lane", config.lane_names()),
        ("pool", config.pools),
        ("agent", config.agents),
        ("tenant", config.tenants),
    ):
        yield from filter(None, (_odd_name(kind, name) for name in names))


def _lanes(config: Config) -> Iterator[str]:
    for lane in config.lane_names():
        if lane in RESERVED_LANES:
            yield f"lane name {lane!r} is kombu's own; choose another."


def _leases(config: Config) -> Iterator[str]:
    lease, renew = config.fleet.lease, config.fleet.renew
    if renew * 2 > lease:
        yield f"[fleet] renew ({renew} s) must be at most half of lease ({lease} s)."


def _redis_timeout(config: Config) -> Iterator[str]:
    """Of one that is given; another is as short as leases need it (:mod:`aios_dist.config.reading`)."""
    timeout, spare = config.fleet.redis_timeout, config.fleet.lease - config.fleet.renew
    if timeout >= spare and timeout > LEAST_REDIS_TIMEOUT_S:
        yield (
            f"[fleet] redis_timeout ({timeout:g} s) must be less than lease - renew ({spare:g} s): "
            "else a dead connection costs leases."
        )


def _backoffs(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if model.backoff > model.backoff_max:
            yield (
                f"[models.{name}] backoff ({model.backoff:g} s) must be at most backoff_max "
                f"({model.backoff_max:g} s)."
            )


def _fallbacks(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        for other in model.fallback:
            if other not in config.models or other == name:
                known = ", ".join(sorted(set(config.models) - {name})) or "none"
                yield f"[models.{name}] fallback {other!r} is not another of the models ({known})."


def _default_model(config: Config) -> Iterator[str]:
    default = config.fleet.default_model
    if default is not None and config.models and default not in config.models:
        yield f"default_model {default!r} is not one of the models ({', '.join(sorted(config.models))})."


def _models_of_agents(config: Config) -> Iterator[str]:
    for agent, prompts in config.agents.items():
        if prompts.model is not None and config.models and prompts.model not in config.models:
            known = ", ".join(sorted(config.models))
            yield f"[agents.{agent}] model {prompts.model!r} is not one of ({known})."


# What a hand sets -------------------------------------------------------------------------------------------


def check_lane(place: str, lane: LaneConfig) -> None:
    """Raises ConfigError: a setting of a lane that cannot be; ``place`` begins the sentence."""
    _check(place, lane)


def check_tenant(place: str, tenant: TenantConfig) -> None:
    """Raises ConfigError: a setting of a tenant that cannot be; ``place`` begins the sentence."""
    _check(place, tenant)


def check_limits(place: str, **limits: Any) -> None:
    """Raises ConfigError: one of these limits of a model cannot be; ``place`` begins the sentence."""
    for field, value in limits.items():
        if found := fault(settings_of(ModelConfig)[field], value, as_written):
            raise ConfigError(f"{place} {found}")


def odd_option(max_tokens: Any, temperature: Any) -> str:
    """What is wrong with the options of a call, as a sentence; "" where nothing is. None is "not given"."""
    if isinstance(max_tokens, int) and not isinstance(max_tokens, bool):
        max_tokens = int.__int__(max_tokens)  # a number of an author's own class is one
    given = {"max_tokens": max_tokens, "temperature": temperature}
    own = settings_of(PromptsConfig)
    faults = (fault(own[name], value, as_written) for name, value in given.items() if value is not None)
    return next(filter(None, faults), "")


def _check(place: str, table: msgspec.Struct) -> None:
    if found := fault_of(type(table), table, as_written):
        raise ConfigError(f"{place} {found}")
