"""``aios.toml`` and the environment, read once, checked whole, and never changed afterwards.

Order: built-in defaults, then the file (``AIOS_CONFIG``, else ``./aios.toml`` if it is there), then
``AIOS_REDIS_URL`` and ``AIOS_FLEET``. Keys of providers are not configuration: a model names the
environment variable that holds its key (``api_key_env``), and only workers read that variable.
"""

from __future__ import annotations

import os
import stat
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
    file, data = read_config(path, env)
    config = parse(data, source=repr(str(file or "aios.toml")), env=env)
    if file is not None and not _named(path, env) and config.names_code:
        _refuse(file, stranger(file.parent, env, code=True), "lies in a folder that ")
    return config


def read_config(
    path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ
) -> tuple[Path | None, dict[str, Any]]:
    """The file that :func:`load` reads with these arguments, and what stands in it.

    Raises:
        ConfigError: it cannot be read; or nobody has named it, it lies in the current folder, and is not the
            user's own. Such a file would send his prompts, and his key of a provider, where it likes.
    """
    file = find_file(path, env)
    if file is None:
        return None, {}
    if not _named(path, env):
        _refuse(file, stranger(file, env))
        _refuse(file, stranger(file.parent, env), "lies in a folder that ")
    return file, read_toml(file)


def _refuse(file: Path, whose: str, where: str = "") -> None:
    if whose:
        raise ConfigError(
            f"{str(file.absolute())!r} {where}{whose}; it says where prompts and keys go, and which code "
            f"runs as you: if you trust it, name it, by --config {file} or AIOS_CONFIG={file}."
        )


def _named(path: str | os.PathLike[str] | None, env: Mapping[str, str]) -> bool:
    return bool(path or env.get("AIOS_CONFIG"))


def stranger(place: Path, env: Mapping[str, str] = os.environ, *, code: bool = False) -> str:
    """Why a file or folder is not the user's own; "" where it is his, or root's.

    Args:
        place: what is looked at.
        env: the environment; ``sudo`` notes in it whose word root's is.
        code: anything in the folder may be imported; else it is enough that nobody else can put another file
            in the place of one of the user's, as in ``/tmp``.
    """
    seen, ours = os.stat(place), {0, os.geteuid()}
    if os.geteuid() == 0 and env.get("SUDO_UID", "").isdigit():
        ours.add(int(env["SUDO_UID"]))
    if seen.st_uid not in ours:
        return f"belongs to another user (uid {seen.st_uid})"
    sticky = stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX and not code
    return "may be written by every user" if seen.st_mode & stat.S_IWOTH and not sticky else ""


def stranger_here(env: Mapping[str, str] = os.environ) -> str:
    """Why nothing of the current folder is to be imported; "" where modules that are named may lie there.

    Where a file is named, those beside it are meant, and those of a folder that is the user's own.

    Raises:
        OSError: the current folder was removed.
    """
    here, named = Path.cwd(), env.get("AIOS_CONFIG")
    if not named or Path(named).absolute().parent == here:
        return ""  # what nobody has named was looked at by `load`, or code says what is meant
    return stranger(here, env, code=True)


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
        text = read_text(file)
        import tomllib  # where there is a file

        return tomllib.loads(text)
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
