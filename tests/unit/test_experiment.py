"""The seed's experiment: its loads and figures, what it reports and draws. The fleet's part: tests/fleet."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from aios_dist.simulate import SimulatedJob
from benchmarks.experiment.__main__ import main
from benchmarks.experiment.observed import Call, Observed, figures, from_simulation
from benchmarks.experiment.report import show, spread
from benchmarks.experiment.results import Result, Results, Spread, agree, plain, results
from benchmarks.experiment.scenarios import PLANS, QUESTIONS, SCENARIOS, Scenario

ABC = SCENARIOS["io-one"]


def simulated(scenario: Scenario, plan: str) -> Observed:
    return from_simulation(scenario.simulated(plan))


def as_if_run(*names: str, late_s: float = 0.0) -> Results:
    """Results whose runs are the simulator's, all calls so much later."""
    chosen = [SCENARIOS[name] for name in names]
    runs = {
        scenario.name: {plan: [delayed(simulated(scenario, plan), late_s)] * 2 for plan in PLANS}
        for scenario in chosen
    }
    return results(chosen, runs)


def delayed(run: Observed, seconds: float) -> Observed:
    calls = tuple(call._replace(start=call.start + seconds, end=call.end + seconds) for call in run.calls)
    return dataclasses.replace(run, calls=calls)


# The loads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "order", "makespan_s"),
    [
        ("fifo", "A1 B1 C1 A2 B2 A3 C2", 2.1),
        ("fixed", "A1 A2 A3 B1 B2 C1 C2", 2.85),
        ("hybrid", "A1 A2 A3 B1 C1 B2 C2", 2.55),
        ("agent-first", "A1 A2 A3 B1 B2 C1 C2", 2.85),
    ],
)
def test_the_seeds_three_agents_run_as_each_plan_orders_them(
    plan: str, order: str, makespan_s: float
) -> None:
    run = simulated(ABC, plan)
    assert run.order == order
    assert run.makespan_s == pytest.approx(makespan_s)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_every_load_belongs_to_a_question_and_no_plan_beats_its_bound(scenario: Scenario) -> None:
    assert scenario.question in QUESTIONS
    assert len({job.name for job in scenario.jobs}) == len(scenario.jobs)
    for plan in PLANS:
        assert simulated(scenario, plan).makespan_s >= scenario.bound_s - 1e-9


def test_the_slow_agents_replies_take_ten_times_as_long() -> None:
    slow, *others = SCENARIOS["slow-four"].jobs
    assert {slow.steps[0] / job.steps[0] for job in others} == {10.0}


def test_a_run_that_takes_long_is_made_once() -> None:
    many = SCENARIOS["many-eight"]
    assert (many.repeats("fifo"), many.repeats("fixed")) == (3, 1)


# The figures -----------------------------------------------------------------------------------------------

PAIR = Scenario(
    "io-pair", "Two agents", ((SimulatedJob("A", (2.0,)), SimulatedJob("B", (1.0, 1.0), (0.0, 1.0))),), 2
)


def test_the_figures_of_a_run_that_can_be_checked_by_hand() -> None:
    run = Observed(
        calls=(Call("A", 1, 0, 0, 2), Call("B", 1, 0, 1, 2), Call("B", 2, 3, 3, 4)),
        own=(Call("B", 1, 2, 2, 3),),
    )
    found = figures(PAIR, run)
    assert found["makespan_s"] == 4
    assert found["slot_use"] == pytest.approx(4 / 8)
    assert found["shared_replies"] == pytest.approx(2 / 4)  # A's second second is B's first
    assert found["shared_own"] == 0
    assert found["turnaround_mean_s"] == 3
    assert found["delay_others_s"] == pytest.approx(0.5)  # B alone: 3 s
    assert found["wait_max_s"] == 1
    assert found["under_way"] == pytest.approx((2 + 3) / 4)
    assert found["jain"] == pytest.approx((1 + 3 / 4) ** 2 / (2 * (1 + 9 / 16)))


def test_under_fixed_order_nobody_uses_the_time_in_which_an_agent_waits() -> None:
    found = figures(SCENARIOS["io-eight"], simulated(SCENARIOS["io-eight"], "fixed"))
    assert found["shared_replies"] == found["shared_own"] == 0
    assert found["under_way"] == pytest.approx(1)


def test_what_the_simulator_calls_own_work_ends_when_the_next_call_is_ready() -> None:
    run = simulated(ABC, "fifo")
    (own,) = run.own
    first, second = (call for call in run.calls if call.agent == "C")
    assert (own.start, own.end) == (first.end, second.since)


# What is said about it -------------------------------------------------------------------------------------


def test_fleet_and_simulator_agree_up_to_five_per_cent() -> None:
    assert agree(as_if_run("io-one"))
    assert agree(as_if_run("io-one", late_s=0.04 * 1.75))
    found = as_if_run("io-one", late_s=0.06 * 2.85)
    assert not agree(found)
    assert not any(result.agrees for result in found["io-one"])


def test_the_median_run_is_the_one_that_is_drawn() -> None:
    runs = tuple(delayed(simulated(ABC, "fifo"), seconds) for seconds in (0.2, 0.0, 0.1))
    result = Result(ABC, "fifo", runs, simulated(ABC, "fifo"))
    assert result.typical.makespan_s == pytest.approx(2.2)
    assert result.fleet()["makespan_s"] == pytest.approx((2.2, 2.1, 2.3))
    assert result.differences()["makespan_s"] == pytest.approx(0.1 / 2.1)


def test_a_spread_is_written_where_it_can_be_seen() -> None:
    assert spread(Spread(2.174, 2.16, 2.18)) == "2.17 ±0.01"
    assert spread(Spread(2.174, 2.173, 2.175)) == "2.17"


def test_the_report_has_a_chart_of_every_plan_and_marks_what_does_not_agree() -> None:
    out = Console(file=io.StringIO(), width=118, force_terminal=True, color_system="standard")
    show(out, as_if_run("io-one", "slow-one", late_s=0.3))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("worker 1") == 2 * len(PLANS)
    assert text.count("own work │") == len(PLANS)
    assert "\x1b[1;31m+14.3%" in text


def test_the_json_has_every_figure_of_every_plan() -> None:
    (scenario,) = plain(as_if_run("slow-four"))
    assert [plan["plan"] for plan in scenario["plans"]] == list(PLANS)
    fifo = scenario["plans"][0]
    assert fifo["fleet"]["makespan_s"]["median"] == fifo["simulated"]["makespan_s"] == 5.0
    assert fifo["turnarounds_s"]["S"] == 5.0


def test_the_pictures_are_png_files_of_modest_size(tmp_path: Path) -> None:
    from benchmarks.experiment import drawing  # matplotlib takes seconds, and only this needs it

    files = drawing.draw(as_if_run("io-one", "slow-one"), tmp_path)
    names = {"gantt-io-one", "gantt-slow-one", "bars-io", "bars-slow", "agreement"}
    assert {file.stem for file in files} == names
    for file in files:
        data = file.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert 5_000 < len(data) < 150_000


def test_a_load_that_is_not_known_is_refused_in_a_sentence() -> None:
    refused = CliRunner().invoke(main, ["io-two"])
    assert refused.exit_code == 2
    assert "'io-two' is not one of" in refused.output
