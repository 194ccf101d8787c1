"""A conversation is stored once: the tables of jobs, through all that becomes of these."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from aios_dist import AsyncFleet
from aios_dist.config import Config
from aios_dist.errors import JobParked, JournalDamaged, JournalError, UnknownName
from aios_dist.journal import Claim, Decision, Journal, Nothing, Onward, RankedStep, WorkerInfo
from aios_dist.journal.records import Asks, Form
from aios_dist.journal.texts import LOOK_AGAIN_S, Kept, Known, texts_in
from aios_dist.model import texts
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.model.jobs import JobState, Kind, NewStep, Outcome, as_record, plain_record, unpacked
from aios_dist.policies import Rank
from tests.redis.conftest import Hand, starts

JOB = "j"


@pytest.fixture
def journal(journal: Journal) -> Journal:
    """Writes apart."""
    journal.apart = True
    return journal


def words(seed: int, size: int = 3000) -> str:
    return "".join(random.Random(seed).choices("abcdefghij ", k=size))


def asks(talk: list[dict[str, Any]]) -> RankedStep:
    data = msgspec.json.encode(LLMRequest(talk, model="small"))
    return RankedStep(NewStep(Kind.LLM, "llm", as_record(data), f"d{len(data)}", "small"), Rank())


class Talk:
    """A job whose conversation grows by each answer."""

    def __init__(self, hand: Hand, id: str = JOB) -> None:
        self.hand, self.id = hand, id
        self.said: list[dict[str, Any]] = [{"role": "user", "content": words(0)}]

    async def begin(self) -> None:
        job = starts(self.id, "x")
        decision = Decision(0, 0, [asks(self.said)])
        await self.hand.submit(msgspec.structs.replace(job, decision=decision))

    async def step(self, turn: int, claim: Claim | None = None, *, apart_turn: bool = False) -> Claim:
        """The next call is answered, and the one behind it asked for."""
        claim = claim or await self.hand.claim()
        assert msgspec.json.decode(unpacked(claim.request))["messages"] == self.said
        answer = LLMResponse(words(turn))
        self.said = [*self.said, answer.message, {"role": "user", "content": words(1000 + turn)}]
        decision = Decision(turn, turn, [asks(self.said)])
        outcome = plain_record(Outcome(response=answer))
        if not apart_turn:
            done = await self.hand.journal.commit(claim, outcome, ok=True, decision=decision)
        else:
            assert (await self.hand.journal.commit(claim, outcome, ok=True)).status == "turn"
            done = await self.hand.journal.advance(self.id, decision)
        assert done.status == "advanced"
        return claim

    async def table(self, id: str = "") -> dict[bytes, bytes]:
        flat = await self.hand.redis("HGETALL", self.hand.keys.job(id or self.id))
        return texts_in(flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True)))


@pytest.fixture
async def talk(hand: Hand) -> Talk:
    made = Talk(hand)
    await made.begin()
    return made


async def held(hand: Hand, job: str = JOB) -> int:
    """Bytes of its requests, outcomes and texts."""
    found = await hand.hash(hand.keys.job(job))
    table = await Talk(hand).table(job)
    return sum(len(v) for f, v in found.items() if f[0] in "qo" and f[1:].isdigit()) + sum(
        map(len, table.values())
    )


async def counted(hand: Hand, job: str = JOB) -> int:
    """What the journal says that they are."""
    return int(await hand.redis("HGET", hand.keys.job(job), "tb"))


async def test_each_step_of_a_conversation_costs_what_it_adds(talk: Talk) -> None:
    costs, before = [], 0
    for turn in range(1, 41):
        await talk.step(turn, apart_turn=turn % 2 == 0)
        costs.append(-before + (before := await held(talk.hand)))
    assert max(costs[1:]) < min(costs[1:]) + 1500  # an answer and a question, and their addresses
    history = await talk.hand.journal.load(JOB)
    assert [step.request.messages for step in history.steps] == [talk.said[: 2 * n + 1] for n in range(41)]  # type: ignore[union-attr]
    assert [o.response.text for _, o in history.outcomes() if o.response] == [words(n) for n in range(1, 41)]
    answer = texts.address_of(msgspec.json.encode(words(3)))
    assert [a for a in await talk.table() if a == answer] == [answer]


async def test_what_a_replay_and_a_live_program_are_told_is_whole(talk: Talk) -> None:
    await talk.step(1)
    news_of = (await talk.hand.journal.load(JOB)).basis
    await talk.step(2)
    history = await talk.hand.journal.load(JOB, requests=False)
    assert [o.response.text for _, o in history.outcomes() if o.response] == [words(1), words(2)]
    assert all(step.request is None for step in history.steps)
    news = await talk.hand.journal.news(JOB, news_of, 1, 2, 0)
    assert news is not None
    assert [s.outcome.response.text for s in news.written if s.outcome and s.outcome.response] == [words(2)]


async def test_other_journals_read_what_one_has_written(talk: Talk) -> None:
    await talk.step(1)
    other = Journal(talk.hand.config)
    claim = await other.claim("llm", "w2")
    assert claim is not None
    assert msgspec.json.decode(unpacked(claim.request))["messages"] == talk.said
    assert set(other._known.of(claim.birth)) == set(await talk.table())
    await other.close()


async def test_a_late_answer_of_an_ended_job_is_kept_whole(talk: Talk) -> None:
    hand = talk.hand
    await talk.step(1)
    late = await hand.claim()
    await hand.journal.cancel(JOB)
    await hand.journal.commit(late, plain_record(Outcome(response=LLMResponse(words(9)))), ok=True)
    assert await hand.redis("PTTL", hand.keys.job(JOB)) > 0
    step = (await hand.journal.load(JOB)).steps[1]
    assert step.outcome is not None
    assert step.outcome.response is not None
    assert step.outcome.response.text == words(9)
    assert await counted(hand) == await held(hand)


async def test_a_job_that_is_retried_keeps_its_texts(talk: Talk) -> None:
    hand = talk.hand
    await talk.step(1)
    await hand.journal.cancel(JOB)
    assert (await hand.journal.retry(JOB))[0] == "running"
    assert msgspec.json.decode(unpacked((await hand.claim()).request))["messages"] == talk.said


async def test_a_fork_has_the_texts_of_its_history_and_no_others(talk: Talk) -> None:
    hand = talk.hand
    for turn in range(1, 5):
        await talk.step(turn)
    assert (await hand.journal.fork(JOB, "f", 2))[0] == "new"
    kept = await talk.table("f")
    assert kept.items() < (await talk.table()).items()
    assert await counted(hand, "f") == await held(hand, "f")
    await hand.journal.cancel(JOB)
    await hand.redis("DEL", hand.keys.job(JOB), hand.keys.events(JOB))
    history = await hand.journal.load("f")
    assert [step.request.messages for step in history.steps] == [talk.said[:1], talk.said[:3]]  # type: ignore[union-attr]


async def test_a_fork_of_much_text_is_made_in_slices(talk: Talk) -> None:
    hand = talk.hand
    talk.said = [{"role": "user", "content": random.Random(1).randbytes(300_000).hex()}]
    await hand.journal.cancel(JOB)
    talk.id = "large"
    await talk.begin()
    for turn in range(1, 4):
        talk.said.append({"role": "user", "content": random.Random(turn).randbytes(300_000).hex()})
        claim = await hand.claim()
        decision = Decision(turn, turn, [asks(talk.said)])
        await hand.journal.commit(claim, plain_record(Outcome(value="x")), ok=True, decision=decision)
    calls: list[str] = []
    run = hand.journal._run

    async def noting(verb: str, *then: Any, **fields: Any) -> Any:
        calls.append(verb)
        return await run(verb, *then, **fields)

    hand.journal._run = noting  # type: ignore[method-assign]
    assert (await hand.journal.fork("large", "f", 4))[0] == "new"
    assert calls.count("fork") > 2
    history = await hand.journal.load("f")
    assert [step.request for step in history.steps] == [
        step.request for step in (await hand.journal.load("large")).steps
    ]
    assert await counted(hand, "f") == await held(hand, "f")
    await hand.look()


async def test_an_id_that_is_used_again_has_texts_of_its_own(talk: Talk) -> None:
    hand = talk.hand
    await talk.step(1)
    await hand.journal.cancel(JOB)
    await hand.redis("DEL", hand.keys.job(JOB), hand.keys.events(JOB))
    again = Talk(hand)
    await again.begin()
    await again.step(1)
    assert len(await again.table()) > 3


@pytest.mark.parametrize("apart_turn", [False, True])
async def test_what_is_known_to_be_there_and_is_not_is_sent(talk: Talk, apart_turn: bool) -> None:
    hand = talk.hand
    await talk.step(1)
    claim = await talk.step(2)
    question = texts.address_of(msgspec.json.encode({"role": "user", "content": words(1001)}))
    assert question in hand.journal._known.of(claim.birth)
    claim = await hand.claim()
    await hand.redis("HDEL", hand.keys.job(JOB), b"x" + question)
    await talk.step(3, claim, apart_turn=apart_turn)
    assert question in await talk.table()
    assert (await hand.journal.load(JOB)).view.steps == 4


async def test_a_job_of_which_a_text_is_missing_is_set_aside_and_others_go_on(talk: Talk) -> None:
    hand = talk.hand
    await hand.submit(starts("other", "x"))
    address = texts.referred((await hand.hash(hand.keys.job(JOB)))["q0"])[0]
    hand.journal._kept.__init__()  # type: ignore[misc]
    await hand.redis("HDEL", hand.keys.job(JOB), b"x" + address)
    got = await hand.journal.take("llm", "w1", "t1")
    while not isinstance(got, Claim):
        got = await hand.journal.take("llm", "w1", "t2")
    assert got.job == "other"
    with pytest.raises(JournalError, match="cannot be read"):
        await hand.journal.load(JOB)
    await hand.lapse()
    await hand.reap()
    await hand.journal.walk("0")
    assert await hand.state(JOB) == "failed"
    await hand.redis("DEL", hand.keys.job(JOB), hand.keys.events(JOB))


async def test_a_job_that_expires_while_it_is_read_is_not_there(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = talk.hand
    await talk.step(1)
    fetched = hand.journal._fetched

    async def late(*args: Any) -> Any:
        await hand.journal.cancel(JOB)
        await hand.redis("DEL", hand.keys.job(JOB), hand.keys.events(JOB))
        return await fetched(*args)

    monkeypatch.setattr(hand.journal, "_fetched", late)
    with pytest.raises(UnknownName):
        await hand.journal.load(JOB, requests=False)


@pytest.mark.parametrize("apart_turn", [False, True])
async def test_a_job_parks_before_it_holds_too_much_and_goes_on_with_a_larger_limit(
    hand: Hand, apart_turn: bool
) -> None:
    async def grown(id: str, limit: int) -> Talk:
        hand.journal.config = msgspec.structs.replace(hand.config, job_limit=limit)
        talk = Talk(hand, id)
        await talk.begin()
        await talk.step(1, apart_turn=apart_turn)
        return talk

    await grown("free", 10**6)
    most = await counted(hand, "free")
    await hand.journal.cancel("free")
    await grown("just", most)
    assert (await hand.state("just"), await counted(hand, "just")) == ("running", most)
    await hand.journal.cancel("just")
    talk = await grown("over", most - 1)
    view = (await hand.journal.load("over")).view
    assert (view.state, view.parked, view.steps, view.outcomes) == (JobState.PAUSED, True, 1, 1)
    assert (view.over_limit, view.held_bytes) == (True, await counted(hand, "over"))
    with pytest.raises(JobParked, match="Give job_limit in ") as parked:
        async with AsyncFleet(config=Config(fleet=hand.config)) as fleet:
            await fleet.job("over").result(timeout=10)
    assert "--from-step" not in str(parked.value)
    assert f"it would hold {most} bytes of requests and answers, more than job_limit ({most - 1})" in view.why
    assert (await hand.journal.resume("over"))[0] == "running"
    turn = await hand.journal.claim("turns", "w1")
    assert turn is not None
    again = Decision(1, 1, [asks(talk.said)])
    assert (await hand.journal.advance("over", again, token=turn.token)).status == "advanced"
    assert await hand.state("over") == "paused"
    hand.journal.config = hand.config
    assert (await hand.journal.resume("over"))[0] == "running"
    turn = await hand.journal.claim("turns", "w1")
    assert turn is not None
    assert (await hand.journal.advance("over", again, token=turn.token)).status == "advanced"
    assert msgspec.json.decode(unpacked((await hand.claim()).request))["messages"] == talk.said


async def test_a_worker_that_knows_nothing_of_what_is_there_counts_it_once(talk: Talk) -> None:
    hand = talk.hand
    for turn in range(1, 4):
        await talk.step(turn)
    most = await counted(hand) + 2500  # what the next turn adds, and not what was there
    hand.journal.config = msgspec.structs.replace(hand.config, job_limit=most)
    claim = await hand.claim()
    hand.journal._known.__init__()  # type: ignore[misc]
    talk.said.append({"role": "user", "content": words(7, 1000)})
    done = await hand.journal.commit(claim, plain_record(Outcome(value="x")), ok=True)
    assert done.status == "turn"
    await hand.journal.advance(JOB, Decision(4, 4, [asks(talk.said)]))
    assert await hand.state(JOB) == "running"
    assert await counted(hand) == await held(hand)


async def test_what_is_written_whole_counts_where_it_is_large(hand: Hand) -> None:
    hand.journal.apart = False
    noise = random.Random(5).randbytes(20_000).hex()
    for id, said in (("small", "x"), ("large", noise)):
        job = starts(id, "x")
        talk = [{"role": "user", "content": said}]
        await hand.submit(msgspec.structs.replace(job, decision=Decision(0, 0, [asks(talk)])))
    assert [await hand.redis("HEXISTS", hand.keys.job(id), "tb") for id in ("small", "large")] == [0, 1]
    assert await counted(hand, "large") == await held(hand, "large")
    small = await hand.claim()
    await hand.journal.commit(small, plain_record(Outcome(value=noise)), ok=True)
    assert await counted(hand, "small") == await held(hand, "small")
    hand.journal.config = msgspec.structs.replace(hand.config, job_limit=20_000)
    await hand.journal.advance("small", Decision(1, 1, [asks([{"role": "user", "content": "y"}])]))
    assert await hand.state("small") == "paused"


async def test_a_wide_job_is_counted_from_its_first_step(hand: Hand) -> None:
    steps = [asks([{"role": "user", "content": f"{n}"}]) for n in range(20)]
    await hand.submit(msgspec.structs.replace(starts("w", "x"), decision=Decision(0, 0, steps)))
    assert await hand.redis("HGET", hand.keys.job("w"), "tb") is None
    await hand.journal.advance("w", Decision(0, 20, steps))
    assert await counted(hand, "w") == await held(hand, "w")


async def test_a_decision_that_parks_writes_no_texts(talk: Talk) -> None:
    hand = talk.hand
    claim = await hand.claim()
    hand.journal.config = msgspec.structs.replace(hand.config, job_limit=5000)
    answer = LLMResponse("ok")
    talk.said += [answer.message, {"role": "user", "content": words(8, 9000)}]
    await hand.journal.commit(
        claim, plain_record(Outcome(response=answer)), ok=True, decision=Decision(1, 1, [asks(talk.said)])
    )
    assert await hand.state(JOB) == "paused"
    assert text_of(words(8, 9000)) not in await talk.table()
    assert await counted(hand) == await held(hand)


async def test_what_stands_in_the_hash_of_one_job_is_read_by_no_other(hand: Hand) -> None:
    """Whoever may write there changes what its own calls say, and no others'."""
    one, other = Talk(hand, "one"), Talk(hand, "other")
    await one.begin()
    await other.begin()
    table = await one.table()
    text = text_of(one.said[0])
    await hand.redis("HSET", hand.keys.job("one"), b"x" + text, b'j{"role":"user","content":"evil"}')
    hand.journal._kept.__init__()  # type: ignore[misc]
    first, second = await hand.claim(), await hand.claim()
    said = {c.job: msgspec.json.decode(unpacked(c.request))["messages"] for c in (first, second)}
    assert said == {"one": [{"role": "user", "content": "evil"}], "other": other.said}
    assert text in table


async def test_nothing_is_written_apart_that_a_worker_of_a_release_before_could_not_read(hand: Hand) -> None:
    journal = Journal(hand.config)
    journal.apart = True
    await journal.registry()
    assert not journal.apart  # nobody knows who will come
    info = WorkerInfo(id="w", host="h", pid=1, pool="p", lanes=["llm"], slots=1, seen_at=await journal.now())
    await journal.announce(info, {})
    await journal.registry()
    assert journal.apart
    older = msgspec.json.encode(msgspec.structs.replace(info, id="w0"))
    await journal.connection.command("HSET", journal.keys.registry, "worker/w0", older)
    await journal.registry()
    assert not journal.apart
    await journal.connection.command("HDEL", journal.keys.registry, "worker/w0")
    await journal.registry()
    assert not journal.apart  # it may be restarted just now
    assert abs(float(await hand.redis("GET", hand.keys.older)) - await journal.now()) < 60
    await hand.redis("SET", hand.keys.older, f"{await journal.now() - 3601:.0f}")
    await journal.registry()
    assert journal.apart
    gone = msgspec.structs.replace(info, id="w0", seen_at=info.seen_at - 3000)  # it was killed
    await journal.connection.command("HSET", journal.keys.registry, "worker/w0", msgspec.json.encode(gone))
    await journal.registry()
    assert not journal.apart
    talk = Talk(hand)
    hand.journal.apart = False
    await talk.begin()
    await talk.step(1)
    assert await talk.table() == {}
    hand.journal.apart = True
    await talk.step(2)
    assert await talk.table() != {}
    assert len((await hand.journal.load(JOB)).steps) == 3
    await journal.close()


def test_what_is_known_and_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios_dist.journal.texts.MOST_KNOWN", 5)
    known = Known()
    known.add("a", [b"1", b"2", b"3"])
    known.add("b", [b"1", b"2"])
    known.of("a")
    known.add("a", [b"4"])
    assert (set(known.of("a")), set(known.of("b"))) == ({b"1", b"2", b"3", b"4"}, set())
    known.forget("a")
    known.add("c", [b"1", b"2", b"3", b"4", b"5"])
    assert len(known.of("c")) == 5
    monkeypatch.setattr("aios_dist.journal.texts.MOST_KEPT", 5)
    kept = Kept()
    kept.keep("a", {b"a": b"123"})
    kept.keep("b", {b"a": b"12"})
    kept.keep("a", {b"a": b"123"})
    assert (kept.of("a"), kept.of("b"), kept.of("c")) == ({b"a": b"123"}, {b"a": b"12"}, {})
    kept.of("a")
    kept.keep("c", {b"c": b"12"})
    assert (kept.of("a"), kept.of("b"), kept.of("c")) == ({b"a": b"123"}, {}, {b"c": b"12"})
    kept.keep("d", {b"d": b"123456"})
    assert not any(map(kept.of, "abcd"))


async def test_answers_come_in_pages(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios_dist.journal.texts.AT_ONCE", 2)
    for turn in range(1, 6):
        await talk.step(turn)
    assert len((await talk.hand.journal.load(JOB)).steps) == 6


class Sent:
    """What a journal has sent of texts, by verb."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_verb: list[tuple[str, set[bytes]]] = []
        run = journal._run

        async def noting(verb: str, *then: Any, **fields: Any) -> Any:
            asked = fields.get("commit", fields)
            flat = [*asked.get("texts", []), *(asked.get("decision") or {}).get("texts", [])]
            self.by_verb.append((verb, set(flat[::2])))
            return await run(verb, *then, **fields)

        monkeypatch.setattr(journal, "_run", noting)

    def of(self, verb: str) -> set[bytes]:
        """By the last call of it."""
        return next(sent for name, sent in reversed(self.by_verb) if name == verb)


def text_of(value: Any) -> bytes:
    return texts.address_of(msgspec.json.encode(value))


async def test_what_is_known_to_be_there_is_not_sent_again(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent(talk.hand.journal, monkeypatch)
    await talk.step(1)
    await talk.step(2, apart_turn=True)
    assert text_of(words(2)) in sent.of("commit")
    assert text_of(words(1002)) in sent.of("advance")
    assert not {text_of(words(n)) for n in (0, 1, 1001, 2)} & sent.of("advance")
    more = [*talk.said, {"role": "user", "content": words(9)}]
    await talk.hand.journal.advance(JOB, Decision(2, 3, [asks(more)]))
    assert text_of(words(9)) in sent.of("advance")
    assert not {text_of(words(n)) for n in (0, 1, 1001, 2, 1002)} & sent.of("advance")


async def test_what_a_claim_has_read_is_known_to_be_there(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk.step(1)
    hand = talk.hand
    hand.journal._known.__init__()  # type: ignore[misc]
    hand.journal._kept.__init__()  # type: ignore[misc]
    sent = Sent(hand.journal, monkeypatch)
    await talk.step(2)
    assert text_of(words(2)) in sent.of("commit")
    assert not {text_of(words(n)) for n in (0, 1, 1001)} & sent.of("commit")


async def test_a_text_counts_once_however_often_it_is_sent(talk: Talk) -> None:
    await talk.step(1)
    talk.hand.journal._known.__init__()  # type: ignore[misc]
    claim = await talk.hand.claim()
    talk.hand.journal._known.forget(claim.birth)
    await talk.step(2, claim)
    assert await counted(talk.hand) == await held(talk.hand)


async def test_what_a_job_has_forgotten_is_shown_whole(talk: Talk) -> None:
    for turn in range(1, 4):
        await talk.step(turn)
    hand = talk.hand
    await hand.journal.pause(JOB)
    assert (await hand.journal.rewind(JOB, 1))[0] == "running"
    history = await hand.journal.load(JOB)
    assert [len(step.request.messages) for step in history.forgotten] == [3, 5, 7]  # type: ignore[union-attr]
    told = [
        step.outcome.response.text for step in history.forgotten if step.outcome and step.outcome.response
    ]
    assert told == [words(2), words(3)]


async def test_what_is_thrown_away_leaves_no_texts(talk: Talk) -> None:
    hand = talk.hand
    await hand.redis("HSET", hand.keys.job(JOB), "half", "1|0")  # one that nobody went on with, a minute ago
    await hand.submit(starts(JOB, "short"))
    assert await talk.table() == {}


async def test_a_slot_whose_write_lacks_a_text_claims_once(talk: Talk) -> None:
    hand = talk.hand
    await talk.step(1)
    await hand.submit(starts("other", "x"))
    claim = await hand.claim()
    question = text_of({"role": "user", "content": words(1001)})
    assert question in hand.journal._known.of(claim.birth)
    await hand.redis("HDEL", hand.keys.job(JOB), b"x" + question)
    answer = LLMResponse("ok")
    talk.said = [*talk.said, answer.message]
    await hand.redis("RPUSH", "tickets:llm", "a ticket that nobody has taken")
    done = await hand.journal.commit(
        claim,
        plain_record(Outcome(response=answer)),
        ok=True,
        decision=Decision(2, 2, [asks(talk.said)]),
        onward=Onward(Form("tickets:", b'{"<id>" "<step>" "<lane>"}'), ["llm"], Asks("w1", "token")),
    )
    assert done.status == "advanced"
    leases = [name.decode() for name in await hand.redis("ZRANGE", hand.keys.leases, 0, -1)]
    assert leases == ([done.next.lease] if done.next is not None else [])
    await hand.redis("DEL", "tickets:llm")


async def test_a_claim_of_a_history_that_is_gone_says_nothing_of_the_job_that_is_there(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was put back between the claim and the look at its texts."""
    hand = talk.hand
    await talk.step(1)

    async def put_back(*_: Any) -> bytes:
        await hand.redis("HSET", hand.keys.job(JOB), "dg", "c0.elsewhere")
        raise JournalDamaged("A text that it refers to is not in Redis.")

    proof = await hand.redis("HGET", hand.keys.job(JOB), "dg")
    monkeypatch.setattr(hand.journal, "document", put_back)
    assert isinstance(await hand.journal.take("llm", "w1", "t1"), Nothing)
    assert await hand.redis("HGET", hand.keys.job(JOB), "bad") is None
    monkeypatch.undo()
    await hand.redis("HSET", hand.keys.job(JOB), "dg", proof)


async def test_a_producer_that_writes_seldom_looks_who_is_to_read_it(hand: Hand) -> None:
    journal = hand.journal
    info = WorkerInfo(id="w", host="h", pid=1, pool="p", lanes=["llm"], slots=1, seen_at=await journal.now())
    await journal.announce(info, {})
    await journal.registry()
    assert journal.apart
    older = msgspec.json.encode(msgspec.structs.replace(info, id="w0"))
    await hand.redis("HSET", hand.keys.registry, "worker/w0", older)
    await Talk(hand, "soon").begin()
    assert await Talk(hand).table("soon") != {}
    assert journal._looked_at is not None
    journal._looked_at -= LOOK_AGAIN_S + 1
    await Talk(hand, "later").begin()
    assert await Talk(hand).table("later") == {}
