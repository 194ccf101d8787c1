"""Who submits jobs and waits for them. Internal: :mod:`aios_dist` has the public names."""
