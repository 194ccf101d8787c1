"""What a job, a step, a call and a plan are: plain records. Internal: :mod:`aios_dist` has what is public."""
