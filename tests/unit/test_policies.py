"""What each policy says, and in which order steps run under it. What all keep to: tests/contracts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.errors import ConfigError
from aios_dist.policies import Past, Rank, Waiting, las, remaining
from aios_dist.policies.las import level
from aios_dist.policies.remaining import LONGEST_S, expected, expected_of
from aios_dist.simulate.agent_first import agent_first
from aios_dist.simulate.ready import ReadySet

NOW_US = 1.9e15
MINUTE_US = 6e7


def order(policy: str, *steps: tuple[str, Waiting, dict[str, Any]]) -> str:
    """The names of the steps as they run; they become ready a millisecond apart, in the order given."""
    ready_set: ReadySet[str] = ReadySet()
    for nth, (name, step, more) in enumerate(steps):
        facts = {"ready": NOW_US + 1000 * nth, "submitted": NOW_US, **more}
        ready_set.add(name, policies.find(policy).rank(step), **facts)
    return "".join(step for step in iter(ready_set.pop, None) if step is not None)


# By name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lifo", "", "FIFO", "fifo ", "rank", "agent-first"])
def test_an_unknown_policy_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policies.find(name)
    known = ", ".join(policies.names())
    assert str(caught.value) == f"There is no policy {name!r}; known are {known}."
    assert policies.get(name) is None


def test_what_can_starve_lets_the_oldest_go_every_tenth_time_unless_asked_otherwise() -> None:
    assert [policies.oldest_every(name) for name in ("deadline", "las", "remaining")] == [10, 10, 10]
    assert [policies.oldest_every(name) for name in ("fifo", "priority", "round-robin")] == [0, 0, 0]
    assert [policies.oldest_every(name, 3) for name in ("fifo", "las")] == [3, 3]
    assert [policies.oldest_every(name, 0) for name in ("fifo", "las")] == [0, 0]


# The number ---------------------------------------------------------------------------------------------


def test_a_rank_is_the_sum_of_its_base_what_it_counts_from_and_the_priority() -> None:
    facts = {"ready": 1000.0, "submitted": 100.0, "round": 10.0, "priority": 3}
    assert Rank().value(**facts) == 1000.0  # type: ignore[arg-type]
    assert Rank(base=5.0, since="submitted").value(**facts) == 105.0  # type: ignore[arg-type]
    assert Rank(base=5.0, since="round", per_priority=2.0).value(**facts) == 9.0  # type: ignore[arg-type]


def test_a_mean_call_of_an_agent_without_a_past_is_not_known() -> None:
    assert Past().step_s == 0.0
    assert Past((1.0, 5.0), 3).step_s == 2.0


# fifo ---------------------------------------------------------------------------------------------------


def test_fifo_is_the_time_of_becoming_ready_and_nothing_else() -> None:
    quick, slow = Waiting("a"), Waiting("b", "u", 99, 1e6, 100, 1.0, Past((1.0,), 1))
    assert policies.find("fifo").rank(quick) == policies.find("fifo").rank(slow) == Rank()
    assert order("fifo", ("a", slow, {"priority": 0}), ("b", quick, {"priority": 9})) == "ab"


# round-robin --------------------------------------------------------------------------------------------


def robin(ready_set: ReadySet[str], *names: str) -> None:
    """Steps become ready; the letter of a name is its agent."""
    for name in names:
        ready_set.add(name, policies.find("round-robin").rank(Waiting(name[0])), ready=NOW_US)


def run(ready_set: ReadySet[str], count: int = 100) -> list[str]:
    found = (ready_set.pop() for _ in range(count))
    return [step for step in found if step is not None]


def test_agents_take_turns_however_many_steps_one_has() -> None:
    ready_set: ReadySet[str] = ReadySet()
    robin(ready_set, "a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert run(ready_set) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_newcomer_has_its_turn_in_the_round_that_runs() -> None:
    ready_set: ReadySet[str] = ReadySet()
    robin(ready_set, *(f"a{n}" for n in range(6)), *(f"b{n}" for n in range(6)))
    assert run(ready_set, 5) == ["a0", "b0", "a1", "b1", "a2"]
    robin(ready_set, "n0", "n1")
    assert run(ready_set, 5) == ["b2", "n0", "a3", "b3", "n1"]


def test_an_agent_that_comes_back_after_a_pause_has_saved_nothing_up_and_waits_for_nobody() -> None:
    ready_set: ReadySet[str] = ReadySet()
    robin(ready_set, "a0", "p0")
    assert run(ready_set) == ["a0", "p0"]
    robin(ready_set, *(f"a{n}" for n in range(1, 9)))
    assert run(ready_set, 4) == ["a1", "a2", "a3", "a4"]
    robin(ready_set, "p1", "p2", "p3")
    assert run(ready_set, 6) == ["p1", "a5", "p2", "a6", "p3", "a7"]


def test_an_agent_that_ran_alone_is_not_made_to_wait_for_it() -> None:
    ready_set: ReadySet[str] = ReadySet()
    robin(ready_set, *(f"a{n:03}" for n in range(100)))
    assert len(run(ready_set)) == 100
    robin(ready_set, "a100", "b0", "b1")
    assert run(ready_set) == ["b0", "a100", "b1"]


def test_agents_that_answer_step_by_step_alternate() -> None:
    """One job an agent, each next step ready when the one before is done: the usual case."""
    ready_set: ReadySet[str] = ReadySet()
    robin(ready_set, "a0", "b0", "c0")
    order = []
    for n in range(9):
        [step] = run(ready_set, 1)
        order.append(step[0])
        robin(ready_set, f"{step[0]}{n + 1}")
    assert "".join(order) == "abcabcabc"


def test_a_step_that_goes_as_the_oldest_does_not_take_the_round_with_it() -> None:
    """Else a newcomer would wait for all rounds that the agent with the oldest steps was let through."""
    ready_set: ReadySet[str] = ReadySet(oldest_every=2)
    policy = policies.find("round-robin").rank
    for at, name in enumerate([f"{agent}{n:02}" for agent in "abcdefgh" for n in range(20)]):
        ready_set.add(name, policy(Waiting(name[0])), ready=NOW_US + at)
    assert sum(step[0] == "a" for step in run(ready_set, 30)) > 15
    ready_set.add("n00", policy(Waiting("n")), ready=NOW_US + 999)
    assert "n00" in run(ready_set, 16), "at most one step of each other agent, and as many of the oldest"


@given(st.lists(st.none() | st.sampled_from("abcd"), max_size=120))
def test_before_an_agents_next_step_at_most_two_of_each_other_agent_go(moves: list[str | None]) -> None:
    """One, if the agent has not had its turn in the round that runs. None in the moves: a slot asks."""
    ready_set: ReadySet[int] = ReadySet()
    agents: dict[int, str] = {}
    head: dict[str, int] = {}  # when the agent's next step came to the head of its line: a place in `order`
    order: list[str] = []
    waiting: dict[str, int] = dict.fromkeys("abcd", 0)
    for nth, agent in enumerate([*moves, *[None] * len(moves)]):
        if agent is not None:
            ready_set.add(nth, policies.find("round-robin").rank(Waiting(agent)), ready=NOW_US + nth)
            agents[nth] = agent
            if not waiting[agent]:
                head[agent] = len(order)
            waiting[agent] += 1
        elif (step := ready_set.pop()) is not None:
            agent = agents[step]
            since = order[head[agent] :]
            assert all(since.count(other) <= 2 for other in "abcd" if other != agent)
            if agent not in order:
                assert all(since.count(other) <= 1 for other in "abcd" if other != agent)
            order.append(agent)
            waiting[agent] -= 1
            head[agent] = len(order)


# priority -----------------------------------------------------------------------------------------------


def test_the_higher_priority_goes_first_and_equals_go_in_order() -> None:
    step = Waiting("a")
    given = [("a", 0), ("b", 9), ("c", 5), ("d", 9), ("e", 0)]
    assert order("priority", *((name, step, {"priority": level}) for name, level in given)) == "bdcae"


def test_a_minute_of_waiting_is_worth_a_level() -> None:
    step = Waiting("a")
    for gap, expected_order in ((MINUTE_US - 1, "ba"), (MINUTE_US + 1, "ab")):
        early, late = {"ready": NOW_US, "priority": 4}, {"ready": NOW_US + gap, "priority": 5}
        assert order("priority", ("a", step, early), ("b", step, late)) == expected_order


def test_the_lowest_priority_is_passed_by_no_step_that_was_ready_nine_minutes_later() -> None:
    rank = policies.find("priority").rank(Waiting("a"))
    low = rank.value(ready=NOW_US, submitted=0.0, priority=0)
    assert rank.value(ready=NOW_US + 9 * MINUTE_US - 1, submitted=0.0, priority=9) < low
    assert rank.value(ready=NOW_US + 9 * MINUTE_US + 1, submitted=0.0, priority=9) > low


def test_two_that_wait_never_change_their_order_so_nothing_is_sorted_again() -> None:
    """Both age alike: the difference of their ranks holds no time but that between their becoming ready."""
    rank = policies.find("priority").rank(Waiting("a"))
    for passed in (0.0, 1e9, 1e12):
        early = rank.value(ready=NOW_US + passed, submitted=0.0, priority=2)
        late = rank.value(ready=NOW_US + passed + 5e6, submitted=0.0, priority=7)
        assert late - early == 5e6 - 5 * MINUTE_US


# las ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "expected_level"),
    [(0, 0), (3.9, 0), (4, 1), (7.9, 1), (8, 2), (16, 3), (4095.9, 10), (4096, 11), (1e6, 11), (1e300, 11)],
)
def test_levels_double_from_four_seconds_to_an_hour(served: float, expected_level: int) -> None:
    assert level(served) == expected_level


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_more_service_never_means_a_level_up(one: float, other: float) -> None:
    assert level(min(one, other)) <= level(max(one, other))


def test_the_job_that_has_had_least_goes_first_and_within_a_level_it_is_fifo() -> None:
    had = {"a": 100.0, "b": 5.0, "c": 0.0, "d": 7.0, "e": 3.0, "f": 70.0}
    assert order("las", *((name, Waiting("x", served=s), {}) for name, s in had.items())) == "cebdaf"


def test_levels_never_mix_however_long_a_step_has_waited() -> None:
    old = las.rank(Waiting("a", served=4.0)).value(ready=NOW_US - 3 * 365 * 86400e6, submitted=0.0)
    new = las.rank(Waiting("a", served=0.0)).value(ready=NOW_US, submitted=0.0)
    assert new < old


# remaining ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30).map(sorted), st.integers(0, 1000))
def test_what_is_expected_is_the_mean_rest_of_longer_runs(totals: list[int], served: int) -> None:
    past = Past(tuple(map(float, totals)), len(totals))
    rests = [total - served for total in totals if total > served]
    brute_force = sum(rests) / len(rests) if rests else served
    assert expected(float(served), past) == pytest.approx(brute_force)


def test_expectations_fall_while_a_run_is_as_others_were_and_rise_once_it_is_not() -> None:
    past = Past((*[10.0] * 9, 100.0), 10)
    assert expected(0.0, past) == pytest.approx(19.0)
    assert expected(9.0, past) == pytest.approx(10.0)
    assert expected(10.0, past) == pytest.approx(90.0), "not one of the nine: then it is the long one"
    assert expected(100.0, past) == 100.0, "longer than all: as much again as it has had"


def test_an_agent_without_a_past_is_let_in_at_once_and_then_measured() -> None:
    assert expected(0.0, Past()) == 0.0
    assert expected(30.0, Past()) == 30.0


@pytest.mark.parametrize(
    ("number", "served", "past", "seconds"),
    [
        (0, 0.0, Past(), 10.0),  # nothing is known: a second a step
        (0, 0.0, Past((6.0,), 3), 20.0),  # the agent's mean call
        (4, 12.0, Past((6.0,), 3), 18.0),  # the job's own
        (3, 0.0, Past((6.0,), 3), 14.0),  # three asked for at once, none has ended: still the agent's
        (9, 27.0, Past(), 3.0),
        (30, 90.0, Past(), 3.0),  # more steps than expected: one more
    ],
)
def test_expected_steps_go_before_the_past(number: int, served: float, past: Past, seconds: float) -> None:
    step = Waiting("a", number=number, served=served, expected_steps=10, past=past)
    assert expected_of(step) == pytest.approx(seconds)


def test_the_steps_that_a_job_asks_for_at_once_rank_near_each_other() -> None:
    """Without a call that has ended, the second must not look like the last of its job."""
    ranks = [remaining.rank(Waiting("a", number=n, expected_steps=10)).base for n in range(10)]
    assert ranks == [pytest.approx(1e11 * (10 - n)) for n in range(10)]


def test_the_job_that_will_be_done_soonest_goes_first_and_equals_go_in_order() -> None:
    past = Past((10.0, 20.0, 30.0), 3)
    jobs = {
        "a": Waiting("x", past=past),  # 20 s to come
        "b": Waiting("x", served=25.0, past=past),  # 5
        "c": Waiting("x", served=19.0, past=past),  # 6
        "d": Waiting("x", expected_steps=2),  # 2
        "e": Waiting("x", served=25.0, past=past),  # 5
        "f": Waiting("new"),  # 0
    }
    assert order("remaining", *((name, step, {}) for name, step in jobs.items())) == "fdbeca"


def test_a_second_of_expectation_is_worth_a_day_of_waiting() -> None:
    day_us = 86400e6
    short, long = (remaining.rank(Waiting("a", served=s)) for s in (1.0, 2.0))
    assert short.value(ready=NOW_US + day_us, submitted=0.0) < long.value(ready=NOW_US, submitted=0.0)


def test_expectations_beyond_eight_hours_are_alike() -> None:
    assert remaining.rank(Waiting("a", served=LONGEST_S)) == remaining.rank(Waiting("a", served=1e9))


# deadline -----------------------------------------------------------------------------------------------


def test_the_nearest_deadline_goes_first_and_those_without_one_last_and_in_order() -> None:
    def job(deadline: float | None, submitted_s: float) -> tuple[Waiting, dict[str, Any]]:
        return Waiting("x", deadline=deadline), {"submitted": NOW_US + submitted_s * 1e6}

    jobs = {"a": job(None, 0), "b": job(60, 0), "c": job(30, 40), "d": job(59, 0), "e": job(None, -9)}
    assert order("deadline", *((name, step, more) for name, (step, more) in jobs.items())) == "dbcae"


def test_a_deadline_in_ten_years_still_goes_before_none_at_all() -> None:
    far, none = (policies.find("deadline").rank(Waiting("x", deadline=d)) for d in (3.2e8, None))
    month_us = 30 * 86400e6
    assert far.value(ready=NOW_US, submitted=NOW_US) < none.value(ready=NOW_US - month_us, submitted=0.0)


def test_a_deadline_counts_from_the_submission_and_not_from_becoming_ready() -> None:
    rank = policies.find("deadline").rank(Waiting("x", number=7, deadline=60.0))
    assert rank.value(ready=NOW_US + 5e6, submitted=NOW_US) == NOW_US + 60e6


# agent-first --------------------------------------------------------------------------------------------


def test_first_the_place_then_the_order_of_becoming_ready() -> None:
    steps = [(place, nth) for place in (2, 0, 1) for nth in (1, 0, 3, 2)]
    assert sorted(steps, key=lambda s: agent_first(NOW_US, s[0], 3, s[1])) == sorted(steps)


@pytest.mark.parametrize("places", [1, 2, 3, 7, 10, 1000, 99_991, 100_000])
@pytest.mark.parametrize("admitted", [1.7e15, NOW_US + 1, 2**51 - 2e6])
@pytest.mark.parametrize("share", [1, 3, 10])
def test_no_two_steps_of_a_plan_share_a_rank_and_all_lie_within_a_second(
    places: int, admitted: float, share: int
) -> None:
    """Looked at where it is narrow: a place's first, second and last steps, and the place after it."""
    jobs = share * places
    each = max(1, int(4 * min(1e6, 32 * jobs) // places))
    some = sorted({0, 1, places // 2, places // 2 + 1, places - 2, places - 1} & set(range(places)))
    nths = sorted({0, 1, 2, each // 2, each // 2 + 1, each - 2, each - 1} & set(range(each)))
    ranks = [agent_first(admitted, place, places, nth, jobs) for place in some for nth in nths]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
    assert ranks[0] == admitted
    assert ranks[-1] < admitted + min(1e6, 32 * jobs)


def test_every_step_of_a_small_plan_has_a_rank_of_its_own() -> None:
    for places in (1, 3, 10, 1000):
        ranks = [agent_first(NOW_US, place, places, nth) for place in range(places) for nth in range(128)]
        assert all(one < other for one, other in pairwise(ranks))
        assert ranks[-1] < NOW_US + 32 * places


def test_more_steps_than_a_place_has_ranks_for_share_its_last() -> None:
    last = agent_first(NOW_US, 0, 2, 127)
    assert agent_first(NOW_US, 0, 2, 128) == agent_first(NOW_US, 0, 2, 10**9) == last
    assert last < agent_first(NOW_US, 1, 2, 0)


def test_a_place_that_was_added_later_follows_all_others() -> None:
    added = [agent_first(NOW_US, place, 3, nth) for place in (3, 4, 50) for nth in (0, 1, 10**6)]
    assert added == sorted(added)
    assert added[0] > agent_first(NOW_US, 2, 3, 10**9)
    assert len(set(added)) == len(added)


def test_towards_other_steps_a_plan_counts_as_ready_when_it_was_admitted() -> None:
    plan = [agent_first(NOW_US, place, 100, nth) for place in (0, 99) for nth in (0, 1000)]
    second_us = 1e6
    assert all(NOW_US - 1 < rank < NOW_US + second_us for rank in plan)
