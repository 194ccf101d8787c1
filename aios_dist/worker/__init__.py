"""What a worker machine runs. Internal: files in ``workers/`` take :mod:`aios_dist.runtime`."""
