"""``make experiment``, or ``python -m benchmarks.experiment [SCENARIO …] [--json] [--seed N] [--out DIR]``.

The seed's experiment on real processes: an embedded Redis, the fake LLM with known reply times, workers.
Fifo, fixed order, hybrid and agent-first run the same loads, on the fleet and in the simulator. Loopback
only, under two minutes. Writes ``experiment.json`` and the pictures into DIR. Exit code 1 when fleet and
simulator are more than 5 % apart, 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from aios_dist.cli.session import every_end_is_ctrl_c
from aios_dist.errors import AiosError, UsageError
from benchmarks.experiment.report import show
from benchmarks.experiment.results import TOLERANCE, Results, agree, plain, results
from benchmarks.experiment.running import count, machine, run_all
from benchmarks.experiment.scenarios import SCENARIOS, SEED, Scenario, scenarios

WIDTH = 118
VERSIONS = ("celery", "kombu", "redis", "aiohttp", "matplotlib")


@click.command(help="The seed's experiment on a real fleet and in the simulator, with pictures.")
@click.argument("names", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--json", "as_json", is_flag=True, help="Print only the figures, as one JSON document.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/experiment"),
    show_default=True,
    help="The folder for the figures and pictures.",
)
@click.option("--seed", default=SEED, show_default=True, help="What replies are drawn from, for many agents.")
def main(names: Sequence[str], as_json: bool, out: Path, seed: int) -> None:
    """Run, report, and say by the exit code whether fleet and simulator agree."""
    chosen = [scenario for name, scenario in scenarios(seed).items() if name in (names or SCENARIOS)]
    console = Console(quiet=as_json, highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console = Console(quiet=as_json, highlight=False, width=WIDTH)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with every_end_is_ctrl_c():
            about, found = _run(chosen)
    except KeyboardInterrupt:
        sys.exit(130)
    except (AiosError, OSError) as wrong:
        click.echo(f"experiment: {str(wrong) or type(wrong).__name__}", err=True)
        sys.exit(2 if isinstance(wrong, UsageError) else 1)
    document = {
        **about,
        "seed": seed,
        "tolerance": TOLERANCE,
        "agrees": agree(found),
        "scenarios": plain(found),
    }
    (out / "experiment.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    from benchmarks.experiment import drawing  # matplotlib takes seconds, and only this needs it

    pictures = drawing.draw(found, out)
    if as_json:
        print(json.dumps(document))
    show(console, found)
    console.print(
        f"\n{len(pictures)} pictures and experiment.json are in {out}; it took {about['took_s']} s."
    )
    sys.exit(0 if agree(found) else 1)


def _run(chosen: Sequence[Scenario]) -> tuple[dict[str, Any], Results]:
    """What was run where, and what came out."""
    began = time.monotonic()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("starting the fleet", total=count(chosen))
        with machine(chosen) as local:
            assert local.redis is not None
            progress.update(task, description="plans run")
            runs = asyncio.run(run_all(local, chosen, lambda: progress.advance(task)))
            redis = local.redis.kind
    about = {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "server": redis,
            **{name: version(name) for name in VERSIONS},
        },
        "took_s": round(time.monotonic() - began, 1),
    }
    return about, results(chosen, runs)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.experiment")
