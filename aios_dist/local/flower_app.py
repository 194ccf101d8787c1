"""What ``celery -A aios_dist.local.flower_app flower`` watches: the fleet of ``aios.toml`` and ``AIOS_…``.

The app brings the broker's address and the fleet's key prefix; Flower's own settings come as ``FLOWER_…``.
"""

from __future__ import annotations

from aios_dist.broker import make_app
from aios_dist.config import load

app = make_app(load())
