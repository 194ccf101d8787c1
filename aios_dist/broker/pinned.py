"""A Celery app that takes its settings from us, whatever another application has put into the environment.

Celery reads the address of its broker from variables before it looks at what the app was told, and settings
from a module that a variable names: a worker would read another Redis, say that it is ready, and do nothing.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.app.utils import Settings
from celery.loaders.app import AppLoader

VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
    "CELERY_LOADER",
    "REMAP_SIGTERM",
)
"""What Celery itself would follow. ``celery -b URL`` (and the like) becomes one of these as well."""


def set_for_others() -> list[str]:
    """Those of the variables that are set, and that a fleet does not follow."""
    return [name for name in VARIABLES if os.environ.get(name)]


class _Settings(Settings):  # type: ignore[misc]
    """Celery's, without a look at the environment."""

    @property
    def broker_url(self) -> Any:
        return self.first("broker_url")

    @property
    def broker_read_url(self) -> Any:
        return self.broker_url

    @property
    def broker_write_url(self) -> Any:
        return self.broker_url

    @property
    def result_backend(self) -> Any:
        return self.first("result_backend")


class Loader(AppLoader):  # type: ignore[misc]
    """Celery's for apps; named by its place, as Celery's own look at Django has it."""

    def read_configuration(self, env: str = "") -> None:
        """No module of settings is ours."""


class Pinned(Celery):  # type: ignore[misc]
    """A Celery app whose settings are those that it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, loader=f"{__name__}:{Loader.__name__}", **kwargs)
        # Celery makes them by name, and exchanges what is in them once they are read.
        object.__setattr__(self._conf, "__class__", _Settings)


__all__ = ["Pinned", "set_for_others"]
