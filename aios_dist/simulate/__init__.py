"""The simulator: the fleet's own policies and plans on a virtual clock.

Discrete events in plain Python: no Redis, no Celery, no waiting. Who goes first and what a plan
admits is decided by the same objects as in the fleet (:mod:`.policies`, :mod:`.model.plans`).

::

    from aios_dist import fixed
    from aios_dist.simulate import SimulatedJob, figures, simulate

    jobs = [SimulatedJob("A", (1.0, 1.0, 1.0)), SimulatedJob("B", (1.0, 1.0)), SimulatedJob("C", (1.0, 1.0))]
    run = simulate(jobs, slots=1, policy="fifo")
    [dispatch.label for dispatch in run.log]       # A1 B1 C1 A2 B2 C2 A3
    run = simulate(jobs, slots=1, plan=fixed(job.spec() for job in jobs))
    figures(run)["makespan_s"]                     # 7.0
"""

from __future__ import annotations

from aios_dist.simulate.events import ORACLE, simulate
from aios_dist.simulate.figures import bound, figures
from aios_dist.simulate.work import Dispatch, Run, SimulatedJob

__all__ = ["ORACLE", "Dispatch", "Run", "SimulatedJob", "bound", "figures", "simulate"]
