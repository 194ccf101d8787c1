"""``aios-dist simulate`` as people and programs call it: no Redis is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_dist import policies
from aios_dist.cli import entry

CSV = "agent,step,prompt_tokens,output_tokens,calls_tool\n" + "".join(
    f"{agent},{step},{500 * (step + 1)},{20 + 7 * agent},{step % 2}\n"
    for agent in range(9)
    for step in range(agent + 1)
)

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``aios-dist simulate`` in a folder with a small workload, nobody at the Redis address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOS_REDIS_URL", "redis://127.0.0.1:1/0")
    (tmp_path / "agents.csv").write_text(CSV, encoding="utf-8")

    def run(*args: str) -> tuple[int, str, str]:
        code = entry.run(["simulate", *args])
        out, err = capsys.readouterr()
        return code, out, err

    return run


FIGURES = {
    "makespan_s", "bound_s", "turnaround_mean_s", "turnaround_p50_s", "turnaround_p95_s", "turnaround_p99_s",
    "slowdown_mean", "slowdown_p95", "wait_max_s", "slot_use", "idle_while_ready_s", "jain_agents",
    "jain_tenants",
}  # fmt: skip


def test_json_is_a_list_of_rows_one_a_load_and_policy_and_the_oracle_last(cli: Cli) -> None:
    code, out, err = cli(
        "--workload", "agents.csv", "--slots", "2", "--load", "0.7", "--load", "1.2", "--policy", "fifo",
        "--policy", "remaining", "--seeds", "3", "--jobs", "40", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["load"], row["policy"]) for row in rows] == [
        (load, name) for load in (0.7, 1.2) for name in ("fifo", "remaining", "oracle")
    ]
    for row in rows:
        assert row.keys() >= FIGURES
        assert all(isinstance(row[name], float) for name in FIGURES)
        assert (row["jobs"], row["seeds"], row["slots"]) == (40, 3, 2)
        assert row["reference"] == (row["policy"] == "oracle")
        assert row["bound_s"] <= row["makespan_s"]
        for name, (least, most) in row["spread"].items():
            assert least <= row[name] <= most
    light, heavy = rows[0], rows[3]
    assert light["turnaround_mean_s"] < heavy["turnaround_mean_s"]
    assert cli(
        "--workload", "agents.csv", "--slots", "2", "--load", "0.7", "--load", "1.2", "--policy", "fifo",
        "--policy", "remaining", "--seeds", "3", "--jobs", "40", "--json",
    )[1] == out  # fmt: skip


def test_plans_stand_beside_policies(cli: Cli) -> None:
    rows = json.loads(
        cli("--workload", "agents.csv", "--slots", "3", "--policy", "fifo", "--plan", "fixed", "--plan",
            "hybrid:3", "--plan", "agent-first", "--json")[1]
    )  # fmt: skip
    by = {row["policy"]: row for row in rows}
    assert list(by) == ["fifo", "fixed", "hybrid:3", "agent-first", "oracle"]
    assert by["fifo"]["makespan_s"] < by["hybrid:3"]["makespan_s"] < by["fixed"]["makespan_s"]
    assert by["fixed"]["idle_while_ready_s"] > by["hybrid:3"]["idle_while_ready_s"] > 0
    assert by["fifo"]["idle_while_ready_s"] == by["agent-first"]["idle_while_ready_s"] == 0
    assert {row["load"] for row in rows} == {None}
    assert rows[0]["jobs"] == 9


def test_fair_share_is_kind_to_the_small_tenant(cli: Cli) -> None:
    rows = json.loads(
        cli("--workload", "light", "--jobs", "150", "--slots", "4", "--load", "1.1", "--tenants", "flood",
            "--policy", "fifo", "--policy", "fifo+fair", "--json")[1]
    )  # fmt: skip
    plain, fair = (row["slowdown_by_tenant"]["small"] for row in rows[:2])
    assert fair < 1.5 < plain


def test_caps_and_weights_are_taken(cli: Cli) -> None:
    rows = json.loads(
        cli("--workload", "light", "--jobs", "30", "--tenants", "2", "--policy", "fifo+fair", "--weight",
            "tenant-0=4", "--cap", "tenant-1=1", "--json")[1]
    )  # fmt: skip
    slowdown = rows[0]["slowdown_by_tenant"]
    assert slowdown["tenant-0"] < slowdown["tenant-1"]
    assert rows[0]["idle_while_ready_s"] > 0


def test_the_table_marks_the_best_of_each_column(cli: Cli) -> None:
    code, out, _ = cli("--workload", "agents.csv", "--policy", "fifo", "--plan", "fixed", "--seeds", "2")
    assert code == 0
    head, names, fifo, fixed, oracle = out.strip().splitlines()
    assert "8 slots, 9 jobs, 45 steps, 2 seeds" in head
    assert names.split()[:3] == ["POLICY", "MAKESPAN", "MEAN"]
    assert fifo.split()[1].endswith("*")
    assert not fixed.split()[1].endswith("*")
    assert oracle.startswith("oracle (reference)")
    assert "*" not in oracle


def test_without_a_policy_all_of_them_are_compared(cli: Cli) -> None:
    rows = json.loads(cli("--workload", "light", "--jobs", "5", "--seeds", "1", "--json")[1])
    assert [row["policy"] for row in rows] == [*policies.names(), "oracle"]


def test_known_history_changes_what_remaining_does_from_the_start(cli: Cli) -> None:
    def mean(*more: str) -> float:
        rows = json.loads(
            cli("--workload", "agents.csv", "--slots", "2", "--policy", "remaining", "--json", *more)[1]
        )
        return float(rows[0]["turnaround_mean_s"])

    assert mean("--history", "sample") != mean()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--policy", "lifo"), "no policy 'lifo'"),
        (("--policy", "fifo+unfair"), "behind + goes"),
        (("--plan", "random"), "no plan 'random'"),
        (("--slots", "0"), "at least one slot"),
        (("--load", "0"), "more than 0"),
        (("--load", "-1"), "more than 0"),
        (("--seeds", "0"), "at least one seed"),
        (("--jobs", "0"), "one job"),
        (("--tenants", "several"), "'flood' or a number"),
        (("--weight", "a=0"), "from 0.001"),
        (("--weight", "a"), "TENANT=NUMBER"),
        (("--cap", "a=0"), "from 1"),
        (("--decode", "0"), "more than 0"),
        (("--history", "all"), "--history"),
        (("--workload", "nowhere.csv"), "Cannot read the workload 'nowhere.csv'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(cli: Cli, args: tuple[str, ...], says: str) -> None:
    code, out, err = cli("--workload", "agents.csv", *args)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1
