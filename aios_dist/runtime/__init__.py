"""What a worker machine runs. Imported by ``workers``, ``cli`` and ``local`` only."""

from aios_dist.errors import ConfigError

try:
    from aios_dist.worker.app import worker_app
    from aios_dist.worker.worker import Runtime
except ModuleNotFoundError as exc:
    if exc.name not in ("greenback", "greenlet"):
        raise
    raise ConfigError("A worker needs more than a producer: pip install 'aios-dist[worker]'.") from None

__all__ = ["Runtime", "worker_app"]
