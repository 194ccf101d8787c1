"""A producer of the release before this one: submits its jobs, waits, and says when all have ended.

With that release in the place of this one: ``python -m tests.chaos.before JOBS.json``; ends by being killed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from aios_dist import AiosError, Fleet, fixed
from aios_dist.errors import ResultTimeout, UnknownName
from tests.chaos import agents


class Submission:
    """Jobs that are submitted together: alone, or as a plan in a fixed order."""

    def __init__(self, plan: str, jobs: list[dict[str, Any]]) -> None:
        self._plan = plan
        self._jobs = [getattr(agents, job["agent"]).job(**job["given"], **job["where"]) for job in jobs]
        self.ids = [job["where"]["id"] for job in jobs]

    def ended(self, fleet: Fleet) -> bool:
        """Whether all have; submitted again where one is not known, which is safe: ids are given."""
        try:
            return all(fleet.job(id).status().ended for id in self.ids)
        except UnknownName:
            if self._plan:
                fleet.submit_plan(fixed(self._jobs, on_failure="continue"), id=self._plan)
            else:
                fleet.submit_many(self._jobs)
            return False


def main() -> None:
    """Until killed; Redis may go away, and come back as it was a second before."""
    work = [Submission(*item) for item in json.loads(Path(sys.argv[1]).read_text("utf-8"))]
    with Fleet.from_env() as fleet:
        while True:
            began = time.time()
            try:
                open_ = [id for one in work if not one.ended(fleet) for id in one.ids]
                if not open_:
                    print(f"all have ended at {began:.6f}", flush=True)
                    time.sleep(0.5)
                for job in fleet.as_completed([fleet.job(id) for id in open_], timeout=1.0):
                    job.status()
            except ResultTimeout:
                continue
            except (AiosError, OSError) as error:
                print(f"again: {error}", flush=True)
                time.sleep(0.2)


if __name__ == "__main__":
    main()
