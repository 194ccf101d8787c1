"""``python -m aios_dist.cli``: the same as ``aios-dist``."""

from aios_dist.cli import main

main()
