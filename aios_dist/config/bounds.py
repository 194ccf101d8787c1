"""What names look like, and where numbers end."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
"""What names and ids look like: they become parts of Redis keys, file names and log lines."""

FOREVER = 1e10
"""Durations and sizes end here (317 years, 10 GB): Redis counts microseconds in doubles."""

MOST = 10**12
"""The highest limit: what Redis counts stays exact."""

RESERVED_LANES = ("unacked", "unacked_index", "unacked_mutex")
"""Kombu's own keys stand beside the lanes' queues."""

LEAST_REDIS_TIMEOUT_S = 1.0
"""No Redis is given up sooner, however short leases are."""

FILES_BESIDE_CALLS = 128
"""Open files of a worker that are not calls: Redis, the program's own, the system's."""
