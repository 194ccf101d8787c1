"""``aios.toml`` and the environment, read once, checked whole, and never changed afterwards.

Order: built-in defaults, then the file (``AIOS_CONFIG``, else ``./aios.toml`` if it is there), then
``AIOS_REDIS_URL`` and ``AIOS_FLEET``. Keys of providers are not configuration: a model names the
environment variable that holds its key (``api_key_env``), and only workers read that variable.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aios_dist.config.bounds import LEAST_REDIS_TIMEOUT_S
from aios_dist.config.checks import check
from aios_dist.config.declared import settings_of
from aios_dist.config.faults import fault_of
from aios_dist.config.files import read_text
from aios_dist.config.tables import TABLES, Config, FleetConfig
from aios_dist.config.words import kind_of, nearest
from aios_dist.errors import ConfigError, InvalidInput

T = TypeVar("T", bound=msgspec.Struct)


def load(path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration.

    Args:
        path: the file; None means ``AIOS_CONFIG``, else ``./aios.toml`` where that exists.
        env: the environment.

    Raises:
        ConfigError: one sentence that names the file, the place and what to write instead.
    """
    file = find_file(path, env)
    data = {} if file is None else read_toml(file)
    config = parse(data, source=repr(str(file or "aios.toml")), env=env)
    if file is not None and config.names_code and (whose := stranger(file, path, env)):
        raise ConfigError(
            f"{str(file.absolute())!r} {whose}, and names code (modules, or a provider's class) that would "
            f"run as you: if you trust it, name it, by --config {file} or AIOS_CONFIG={file}."
        )
    return config


def stranger(
    file: Path, path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ
) -> str:
    """Why a file that nobody has named, but that lies in the current folder, is not the user's own word.

    Args:
        file: as :func:`find_file` gives it with these arguments.
        path, env: as of :func:`load`.

    Returns:
        What to say of the file; "" where it is the user's (or root's) own, or was named.
    """
    if path or env.get("AIOS_CONFIG"):
        return ""
    ours = {0, os.geteuid()} | ({int(env["SUDO_UID"])} if env.get("SUDO_UID", "").isdigit() else set())
    for place, what in ((file, "belongs to"), (file.absolute().parent, "lies in a folder of")):
        seen = os.stat(place)
        if seen.st_uid not in ours:
            return f"{what} another user (uid {seen.st_uid})"
        if seen.st_mode & stat.S_IWOTH:
            return "may be written by every user" if place is file else "lies in a folder of every user"
    return ""


def find_file(path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> Path | None:
    """The file that :func:`load` reads with these arguments; None where none is named and none is there.

    Raises:
        ConfigError: the file that is named is not there, or what has its name is no file.
    """
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"A configuration file is named by its path, not by a {type(path).__name__}.")
    named = path or env.get("AIOS_CONFIG")
    file = Path(named) if named else Path("aios.toml")
    if _is_there(file):
        return file
    if named:
        raise ConfigError(f"There is no configuration file {str(file)!r}; check AIOS_CONFIG or --config.")
    return None


def _is_there(file: Path) -> bool:
    """Raises ConfigError for what is there and no file."""
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file can have some names
        if os.path.islink(file):
            raise ConfigError(f"{str(file)!r} is a link to a file that is not there.") from None
        return False
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot be read: {exc.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{str(file)!r} is a folder, and no configuration file.")
    if not stat.S_ISREG(mode):  # it is read more than once: by workers, too
        raise ConfigError(f"{str(file)!r} is no regular file, as a configuration must be.")
    return True


def read_toml(file: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file as data.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(file))
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot be read: {exc.strerror}.") from None
    except InvalidInput as exc:
        raise ConfigError(str(exc)) from None
    except RecursionError:
        raise ConfigError(f"{str(file)!r} is nested too deeply.") from None
    except ValueError as exc:
        raise ConfigError(f"{str(file)!r} is not TOML: {exc}.") from None


def parse(
    data: Mapping[str, Any], source: str = "configuration", env: Mapping[str, str] | None = None
) -> Config:
    """Check plain data as a configuration; ``source`` is named in errors.

    Raises:
        ConfigError: see :func:`load`.
    """
    for name in data:
        if name not in TABLES:
            raise ConfigError(f"{source}: unknown section [{name}]; {nearest(name, TABLES)}")
    env = env or {}
    variables = of_environment(env)
    given = {**_table(data, "fleet", source), **{name: env[v] for name, v in variables.items()}}
    sections: dict[str, Any] = {"fleet": _record(given, FleetConfig, f"{source}: [fleet]")}
    for section, kind in list(TABLES.items())[1:]:
        sections[section] = {
            name: _record(entry, kind, f"{source}: [{section}.{name}]")
            for name, entry in _table(data, section, source).items()
        }
    config = Config(**sections)
    config.hide_secrets(env)
    check(config, source, given, variables)
    return config if "redis_timeout" in given else _with_short_redis_timeout(config)


def of_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The settings of ``[fleet]`` that the environment says, each with its variable."""
    named = {setting.name: setting.variable for setting in settings_of(FleetConfig).values()}
    return {name: variable for name, variable in named.items() if variable and env.get(variable)}


def _with_short_redis_timeout(config: Config) -> Config:
    """``redis_timeout`` is less than ``lease - renew``: where nobody chose one, it is as short as that."""
    fleet = config.fleet
    spare = fleet.lease - fleet.renew
    if fleet.redis_timeout < spare:
        return config
    shorter = max(LEAST_REDIS_TIMEOUT_S, 0.7 * spare)
    return msgspec.structs.replace(config, fleet=msgspec.structs.replace(fleet, redis_timeout=shorter))


def _table(data: Mapping[str, Any], section: str, source: str) -> dict[str, Any]:
    table = data.get(section, {})
    if not isinstance(table, Mapping):
        example = "[fleet]" if section == "fleet" else f"[{section}.NAME]"
        raise ConfigError(f"{source}: {section} must be a table, {example}, not {kind_of(table)}.")
    return dict(table)


def _record(entry: Any, kind: type[T], place: str) -> T:
    """One table as its record, or a sentence in the file's own words with the nearest right spelling."""
    if found := fault_of(kind, entry):
        raise ConfigError(f"{place} {found}")
    return msgspec.convert(entry, kind)
