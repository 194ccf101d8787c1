"""Any verbs in any order, answers lost, workers dying: the invariants hold throughout, and all jobs end.

A crash between two verbs is simply that the second is never called, so the machine's rules are the verbs,
each good for itself, and time. After every move ``Hand.look`` compares Redis with itself; the machine keeps
what may never change: outcomes, ends, counts. ``MACHINE_EXAMPLES=300`` looks for longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aios_dist.agents import Budget
from aios_dist.calls import Usage
from aios_dist.config import FleetConfig
from aios_dist.errors import ProviderBusy
from aios_dist.jobs import JOB_CHANGES, STEP_CHANGES, JobState, Outcome, StepState, encode
from aios_dist.journal import Claim, Decision, Journal, Stray
from aios_dist.policies import Rank
from tests.redis.conftest import OPEN, Hand, Told, decides, plan_of, starts

if TYPE_CHECKING:
    import redis

    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets

LANES = ("llm", "turns")
MOST_STEPS = 6
"""Of one job: then its program ends."""
MOST_JOBS = 14

number = st.integers(0, 999)
failure = st.sampled_from(["stop", "continue"])
BIRTHS = {
    "one": ["a"],
    "two": ["a", "b"],
    "three": ["a", "b", "c"],
    "turn": [],
    "waits": ["a", "sleep:60", "signal:go"],
    "human": ["signal:go"],
}
births = st.sampled_from([*BIRTHS, "done", "failed"])
budgets = st.sampled_from(
    [None, None, None, Budget(tokens=4), Budget(tokens=2, on_budget="fail"), Budget(money=0.001)]
)
RANKS = {
    "fifo": Rank(),
    "priority": Rank(per_priority=6e7),
    "las": Rank(1e14),
    "deadline": Rank(5e6, "submitted"),
    "round-robin": Rank(since="round", group="a"),
}
TENANTS = ("acme", "default")
policies = st.sampled_from([*RANKS])
trees = st.recursive(
    st.just("job"),
    lambda members: st.tuples(
        st.sampled_from(["fixed", "fifo", "agent-first"]), failure, st.lists(members, min_size=1, max_size=3)
    ),
    max_leaves=5,
).filter(lambda tree: tree != "job")


def reachable(table: dict[Any, frozenset[Any]], start: Any) -> set[Any]:
    """All states that a record may come to."""
    found, rest = {start}, [start]
    while rest:
        for state in table[rest.pop()] - found:
            found.add(state)
            rest.append(state)
    return found


JOB_PATHS = {s.value: {t.value for t in reachable(JOB_CHANGES, s)} for s in JobState}
STEP_PATHS = {s.value: {t.value for t in reachable(STEP_CHANGES, s)} for s in StepState}


class Machine(RuleBasedStateMachine):
    """A fleet without processes."""

    url: ClassVar[str]
    new_name: ClassVar[Any]
    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.config = FleetConfig(name=self.new_name(), redis_url=self.url, lease=600.0, attempts=2)
        self.journal = self.runner.run(self._open())
        self.hand = Hand(self.journal, self.config)
        self.jobs: list[str] = []
        self.plans: list[str] = []
        self.claims: list[Claim] = []
        self.last: dict[str, dict[str, bytes]] = {}
        self.texts = 0
        self.drained = False
        self.policy = "fifo"
        self.reranked = False

    async def _open(self) -> Journal:
        return Told(self.config)

    def run(self, move: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(move)

    def pick(self, things: list[Any], which: int) -> Any:
        return things[which % len(things)]

    # Producers -------------------------------------------------------------------------------------

    def newborn(self, birth: str, budget: Budget | None = None) -> Any:
        id = f"j{len(self.jobs)}"
        self.jobs.append(id)
        if birth in ("done", "failed"):
            return starts(id, ends=JobState(birth))
        tenant = TENANTS[len(self.jobs) % 2]
        return starts(id, *BIRTHS[birth], budget=budget, tenant=tenant, tokens=10, **self.ranked())

    def ranked(self) -> dict[str, Any]:
        """What the producers and workers know of the lane's policy: not always the latest."""
        return {"rank": RANKS[self.policy], "policy": self.policy}

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(birth=births, budget=budgets, repeat=st.booleans())
    def submit(self, birth: str, budget: Budget | None, repeat: bool) -> None:
        job = self.newborn(birth, budget)
        assert self.run(self.journal.submit([job])).new == [True]
        if repeat:
            assert self.run(self.journal.submit([job])).new == [False]

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(tree=trees, birth=st.lists(births, min_size=5, max_size=5), repeat=st.booleans())
    def plan(self, tree: Any, birth: list[str], repeat: bool) -> None:
        id = f"p{len(self.plans)}"
        self.plans.append(id)
        new = []

        def grow(part: Any) -> Any:
            if part == "job":
                new.append(self.newborn(birth[len(new) % 5]))
                return new[-1].id
            mode, on_failure, members = part
            return (mode, on_failure, *map(grow, members))

        shape, owners = plan_of(id, grow(tree))
        jobs = [msgspec.structs.replace(job, node=owners[job.id]) for job in new]
        if tree[0] == "agent-first":
            count = len(new)
            jobs = [msgspec.structs.replace(job, place=(0, n, count, count)) for n, job in enumerate(jobs)]
        assert self.run(self.journal.submit(jobs, shape)).status == "new"
        if repeat:
            assert self.run(self.journal.submit(jobs, shape)).status == "same"

    @precondition(lambda self: self.plans and len(self.jobs) < MOST_JOBS)
    @rule(which=number, birth=st.lists(births, min_size=1, max_size=3), repeat=st.booleans())
    def extend(self, which: int, birth: list[str], repeat: bool) -> None:
        plan = self.pick(self.plans, which)
        stopped = self.run(self.journal.plan(plan)).state == "failed"
        known = len(self.jobs)
        new = [self.newborn(b) for b in birth]
        done = self.run(self.journal.extend(plan, new)).status
        assert done == ("stopped" if stopped else "extended")
        if stopped:
            del self.jobs[known:]
        elif repeat:
            again = self.run(self.journal.extend(plan, new))
            assert (again.status, again.tickets) == ("extended", [])

    @precondition(lambda self: self.jobs)
    @rule(which=number)
    def cancel(self, which: int) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.state(job))
        status, _ = self.run(self.journal.cancel(job))
        assert status == ("cancelled" if before in OPEN else "ended")

    # People ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(which=number)
    def pause(self, which: int) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.state(job))
        expected = "paused" if before == "running" else before
        assert self.run(self.journal.pause(job)) == expected

    @precondition(lambda self: self.jobs)
    @rule(which=number, more=st.booleans(), repeat=st.booleans())
    def resume(self, which: int, more: bool, repeat: bool) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.state(job))
        budget = Budget(tokens=1000, money=1000.0) if more else None
        status, _ = self.run(self.journal.resume(job, budget))
        assert status == ("running" if before == "paused" else before)
        if repeat:
            assert self.run(self.journal.resume(job, budget)) == (status, [])

    @precondition(lambda self: self.jobs)
    @rule(which=number)
    def signal(self, which: int) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.state(job))
        status, _ = self.run(self.journal.signal(job, "go", Outcome(value="gone")))
        assert status in ({"delivered", "kept"} if before in OPEN else {"ended"})

    @precondition(lambda self: self.jobs)
    @rule(which=number, repeat=st.booleans())
    def retry(self, which: int, repeat: bool) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.hash(self.hand.keys.job(job)))
        state = before["st"].decode()
        status, _ = self.run(self.journal.retry(job))
        assert status == ("running" if state in ("failed", "cancelled") else state)
        if status != state:
            now = self.run(self.hand.hash(self.hand.keys.job(job)))
            for field, value in before.items():
                if field[0] == "h" and msgspec.msgpack.decode(value)[2] == "done":
                    assert now["o" + field[1:]] == before["o" + field[1:]], "what is answered stays so"
            self.last.pop(job, None)
        if repeat:
            assert self.run(self.journal.retry(job)) == (status, [])

    @precondition(lambda self: self.jobs and len(self.jobs) < MOST_JOBS)
    @rule(which=number, step=st.integers(0, MOST_STEPS), repeat=st.booleans())
    def fork(self, which: int, step: int, repeat: bool) -> None:
        job, new = self.pick(self.jobs, which), f"j{len(self.jobs)}"
        steps = self.run(self.journal.load(job)).view.steps
        status, _ = self.run(self.journal.fork(job, new, step))
        assert status == ("new" if step <= steps else "beyond")
        if status == "new":
            self.jobs.append(new)
            if repeat:
                assert self.run(self.journal.fork(job, new, step)) == ("new", [])

    @rule(flight=st.integers(0, 3), rpm=st.sampled_from([0, 0, 5]), tpm=st.sampled_from([0, 0, 60]))
    def limit(self, flight: int, rpm: int, tpm: int) -> None:
        """Not below what is in flight: a limit stops no call."""
        busy = self.run(self.hand.redis("ZCARD", self.hand.keys.inflight("small")))
        self.run(self.hand.limit("small", max(flight, busy) if flight else 0, rpm, tpm))

    @precondition(lambda self: self.jobs)
    @rule(which=number, priority=st.integers(0, 9))
    def rerank(self, which: int, priority: int) -> None:
        job = self.pick(self.jobs, which)
        before = self.run(self.hand.state(job))
        assert self.run(self.journal.rerank(job, priority))[0] == before
        self.reranked = True

    @rule(
        policy=st.none() | policies,
        oldest=st.sampled_from([None, 0, 2]),
        fair=st.sampled_from([None, "", "tenant"]),
        source=st.sampled_from(["hand", "hand", "file", "reset"]),
        known=st.booleans(),
    )
    def change_lane(
        self, policy: str | None, oldest: int | None, fair: str | None, source: Any, known: bool
    ) -> None:
        """``known``: producers hear of it."""
        now = self.run(
            self.journal.set_lane("llm", policy=policy, oldest_every=oldest, fair=fair, source=source)
        )
        if known:
            self.policy = now.policy

    @rule()
    def rank_anew(self) -> None:
        rules = self.run(self.journal.lane_rules(["llm"]))["llm"]

        async def rank(strays: list[Stray]) -> list[tuple[Rank, str]]:
            return [(RANKS[rules.policy], rules.policy) for _ in strays]

        self.run(self.journal.rank_strays("llm", rank))
        for kind in ("stray", "astray"):
            assert self.run(self.hand.by_model(kind)) == {}
        self.reranked = True

    @rule(tenant=st.sampled_from(TENANTS), flight=st.integers(0, 2), weight=st.sampled_from([1.0, 2.0]))
    def limit_tenant(self, tenant: str, flight: int, weight: float) -> None:
        busy = self.run(self.hand.redis("ZCARD", self.hand.keys.inflight(f"@{tenant}")))
        most = max(flight, busy) if flight else 0
        self.run(self.journal.set_tenant(tenant, max_in_flight=most, weight=weight))

    # Workers ---------------------------------------------------------------------------------------

    @rule(lane=st.sampled_from(LANES), worker=st.sampled_from(["w1", "w2"]), lost=st.booleans())
    def claim(self, lane: str, worker: str, lost: bool) -> None:
        before = self.run(self.hand.waiting(lane))
        waiting = self.run(self.hand.names(lane)) or before
        held = [m for names in self.run(self.hand.by_model("held")).values() for m in names]
        rules = self.run(self.journal.lane_rules([lane]))[lane]
        claim = self.run(self.journal.claim(lane, worker))
        free = not any(facts.keys() & {"bt", "bm"} for facts in self.last.values())
        plain = not rules.fair and not rules.oldest_every
        if lane == "turns" or (plain and free and not self.limited()):
            assert (claim and f"{claim.job}/{claim.step}") == (waiting[0] if waiting else None)
        elif claim is not None:
            assert f"{claim.job}/{claim.step}" in {*before, *held}
        if claim is not None and not lost:
            self.claims.append(claim)

    def limited(self) -> bool:
        return bool(self.run(self.hand.redis("KEYS", self.hand.keys.model("*"))))

    def decision(self, job: str, kind: str, more: int, ahead: int) -> Decision | None:
        """What a turn came to that has seen all outcomes and the next ``ahead`` ones; or too little."""
        if kind == "none":
            return None
        view = self.run(self.journal.load(job)).view
        version, first = view.outcomes + ahead, view.steps
        if kind == "stale":
            return decides(version - 1, first, "late")
        if kind == "forgetful" and first:  # a job without a step has nothing that was forgotten
            return decides(version, first - 1, "again")
        open_left = view.steps - version
        if kind == "failed":
            return decides(version, first, ends=JobState.FAILED)
        if kind == "done" or first >= MOST_STEPS or (more == 0 and open_left == 0):
            return decides(version, first, ends=JobState.DONE)
        if kind == "waits":
            return decides(version, first, "sleep:60", "signal:go", "x", tokens=10, **self.ranked())
        return decides(version, first, *"xyz"[:more], tokens=10, **self.ranked())

    kinds = st.sampled_from(["none", "stale", "forgetful", "more", "more", "waits", "done", "failed"])

    @precondition(lambda self: self.claims)
    @rule(
        which=number,
        ok=st.booleans(),
        kind=kinds,
        more=st.integers(0, 3),
        here=st.booleans(),
        repeat=st.booleans(),
    )
    def commit(self, which: int, ok: bool, kind: str, more: int, here: bool, repeat: bool) -> None:
        claim = self.pick(self.claims, which)
        if claim.is_turn:
            return
        self.texts += 1
        text = f"answer {self.texts}"
        before = self.last[claim.job]
        head = msgspec.msgpack.decode(before["h" + claim.step])
        decision = self.decision(claim.job, kind, more, 1)
        outcome = encode(Outcome(value=text))
        for attempt in range(1 + repeat):
            done = self.run(
                self.journal.commit(
                    claim,
                    outcome,
                    ok=ok,
                    usage=Usage(1, 1, 1),
                    money=0.0005,
                    decision=decision,
                    turn_here=here,
                )
            )
            if head[2] in ("done", "failed"):
                expected = {"mine"} if head[3] == claim.attempt else {"written"}
            elif head[3] != claim.attempt:
                expected = {"fenced"}
            elif attempt:
                expected = {"mine"}
            elif before["st"] != b"running":
                expected = {"paused" if before["st"] == b"paused" else "ended"}
            else:
                expected = {"advanced"} if kind in ("more", "waits", "done", "failed") else {"turn"}
            assert done.status in expected, (done.status, expected)
        written = self.run(self.hand.hash(self.hand.keys.job(claim.job))).get("o" + claim.step)
        if expected <= {"fenced", "written"} or head[2] in ("done", "failed"):
            assert written == before.get("o" + claim.step)
        else:
            assert written == outcome

    @precondition(lambda self: self.claims)
    @rule(which=number, kind=kinds, more=st.integers(0, 3), repeat=st.booleans())
    def advance(self, which: int, kind: str, more: int, repeat: bool) -> None:
        claim = self.pick(self.claims, which)
        decision = self.decision(claim.job, kind, more, 0)
        if decision is None:
            return
        token = claim.token if claim.is_turn else ""
        before = self.last[claim.job]["st"]
        done = self.run(self.journal.advance(claim.job, decision, token=token))
        if before != b"running":
            assert done.status == "ended"
        else:
            assert done.status == ("stale" if kind == "stale" else "advanced")
        if repeat:
            again = self.run(self.journal.advance(claim.job, decision, token=token))
            # Stale: what was begun had a signal that was kept for it, and so an outcome already.
            assert again.status in (done.status, "ended", "stale")
            assert again.tickets == []

    @precondition(lambda self: self.claims)
    @rule(which=number, after=st.sampled_from([0.0, 60.0]), repeat=st.booleans())
    def release(self, which: int, after: float, repeat: bool) -> None:
        claim = self.pick(self.claims, which)
        for _ in range(1 + repeat):
            self.run(self.journal.release(claim, "429", after))

    @precondition(lambda self: self.claims)
    @rule(
        which=number,
        after=st.sampled_from([0.0, 60.0]),
        hold=st.sampled_from([0.0, 0.0, 60.0]),
        breaker=st.sampled_from([0, 2]),
        to=st.sampled_from([None, None, ("big", "llm")]),
        repeat=st.booleans(),
    )
    def fail(
        self, which: int, after: float, hold: float, breaker: int, to: tuple[str, str] | None, repeat: bool
    ) -> None:
        claim = self.pick(self.claims, which)
        if claim.is_turn:
            return
        error = ProviderBusy("x")
        for attempt in range(1 + repeat):
            tickets = self.run(
                self.journal.release(claim, "x", after, error=error, hold=hold, breaker=breaker, to=to)
            )
            assert not (attempt and tickets)

    @precondition(lambda self: self.claims)
    @rule()
    def renew(self) -> None:
        self.run(self.hand.renew(*self.claims))

    # Time ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.claims)
    @rule(which=number)
    def lapse(self, which: int) -> None:
        self.run(self.hand.lapse(self.pick(self.claims, which)))

    @rule()
    def ring(self) -> None:
        self.run(self.hand.ring())

    @rule(model=st.sampled_from(["small", "big"]))
    def minute(self, model: str) -> None:
        self.run(self.passes(model))

    async def passes(self, model: str) -> None:
        if await self.hand.redis("EXISTS", self.hand.keys.model(model)):
            await self.hand.end_hold(model)
        await self.hand.minute(61, model)

    @rule(page=st.sampled_from([1, 2, 200]))
    def reap(self, page: int) -> None:
        self.run(self.hand.reap(page=page))

    # What must hold --------------------------------------------------------------------------------

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        self.run(self.hand.look())
        jobs = self.run(self.hand.jobs())
        assert set(jobs) == set(self.jobs)
        for id, before in self.last.items():
            now = jobs[id]
            assert now["st"].decode() in JOB_PATHS[before["st"].decode()]
            if before["st"] in (b"done", b"failed", b"cancelled"):
                assert (now["st"], now["res"], now["t1"]) == (before["st"], before["res"], before["t1"])
                assert now["n"] == before["n"]
            for field, value in before.items():
                if field[0] == "o" and field[1:].isdigit():
                    assert now[field] == value, f"the outcome {field} of {id} was written twice"
                if field[0] == "q" or field in ("rec", "t0", "pl", "pn"):
                    assert now[field] == value
                if field[0] == "h" and field[1:].isdigit():
                    was, is_ = msgspec.msgpack.decode(value), msgspec.msgpack.decode(now[field])
                    assert is_[2] in STEP_PATHS[was[2]], f"{id}/{field[1:]}: {was[2]} became {is_[2]}"
                    assert is_[3] >= was[3]
                    if was[2] not in ("pending", "dropped") and not self.reranked:
                        assert (is_[6], is_[7]) == (was[6], was[7]), "a step keeps its rank"
                    if was[2] in ("done", "failed"):
                        assert is_ == was
            for count in ("n", "v", "up", "uo", "uc"):
                assert int(now.get(count, 0)) >= int(before.get(count, 0))
        self.last, self.reranked = jobs, False

    def teardown(self) -> None:
        try:
            self.run(self.drain())
        finally:
            self.run(self.journal.close())
            self.runner.close()
            keys = list(self.client.scan_iter(f"{self.hand.keys.prefix}*", count=1000))
            if keys:
                self.client.unlink(*keys)

    async def drain(self) -> None:
        """Workers and the reconciler do their work from here on: everything ends, in a bounded time."""
        hand = self.hand
        for _ in range(40 * MOST_JOBS):
            if not await hand.members(hand.keys.open):
                break
            for job in await hand.members(hand.keys.open):
                await self.journal.resume(job, Budget(tokens=10**9, money=1e6))
                await self.journal.signal(job, "go", Outcome())
            await hand.lapse()
            await hand.ring()
            await hand.reap()
            for model in ("small", "big", *(f"@{tenant}" for tenant in TENANTS)):
                await self.passes(model)
            for lane in LANES:
                if (claim := await self.journal.claim(lane, "w3")) is None:
                    continue
                view = (await self.journal.load(claim.job)).view
                if claim.is_turn:
                    end = decides(view.outcomes, view.steps, ends=JobState.DONE)
                    await self.journal.advance(claim.job, end, token=claim.token)
                else:
                    await hand.finish(claim)
            await hand.look()
        assert await hand.members(hand.keys.open) == set()
        for _ in range(5):
            await hand.lapse()
            await hand.ring()
            await hand.reap()
        assert await hand.by_model("held") == await hand.by_model("inflight") == {}
        for kind in ("ready", "readyby", "readyold", "stray", "heldby", "heldold"):
            assert await hand.by_model(kind) == {}
        for key in (hand.keys.leases, hand.keys.timers, hand.keys.due):
            assert await hand.members(key) == set()
        for plan in self.plans:
            assert (await self.journal.plan(plan)).state in ("done", "failed")


@contextmanager
def on(server: EmbeddedRedis, client: redis.Redis, fleets: Fleets) -> Iterator[type[Machine]]:
    """The machine on this run's server, with fleets of its own."""
    names: list[str] = []

    def new_name() -> str:
        names.append(fleets.new_name())
        return names[-1]

    yield type(
        "Machine", (Machine,), {"url": server.url, "client": client, "new_name": staticmethod(new_name)}
    )
    fleets.names.difference_update(names)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_whatever_happens_in_whatever_order_the_invariants_hold_and_all_jobs_end(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, fleets: Fleets
) -> None:
    ci = os.environ.get("CI") == "true"
    with on(redis_server, redis_client, fleets) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=int(os.environ.get("MACHINE_EXAMPLES", "50")),
                stateful_step_count=40,
                derandomize=ci,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
