"""What must hold between any two verbs, whatever came before (docs/design.md; docs/how-it-runs.md).

Each function looks at one :class:`Seen` and names what is wrong with it; none knows the verbs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

import msgspec

from aios_dist.model.jobs import JOB_CHANGES, STEP_CHANGES, JobState, StepState
from tests.driver.seen import ENDED, OPEN, TURN, Head, JobSeen, Seen

ROUND = 2
"""What a rank counts from, where that is rounds."""
WAITS = frozenset({"ready", "leased", "timed", "waiting"})
MINUTE = 60_000_000


def reachable(table: dict, start: object) -> set[str]:
    """All states that a record may come to, by any number of changes."""
    found, rest = {start}, [start]
    while rest:
        for state in table[rest.pop()] - found:
            found.add(state)
            rest.append(state)
    return {state.value for state in found}


JOB_PATHS = {s.value: reachable(JOB_CHANGES, s) for s in JobState}
STEP_PATHS = {s.value: reachable(STEP_CHANGES, s) for s in StepState}


def wrong(seen: Seen, gone: Collection[str] = ()) -> list[str]:
    """All that is wrong. ``gone``: ids of jobs, and leases, that are not there; what counts them may be."""
    counted = [*of_counts(seen)]
    seen = seen.without(gone) if gone else seen
    return [
        *seen.odd,
        *seen.odd_texts(),
        *counted,
        *(line for id, job in seen.jobs.items() for line in of_a_job(seen, id, job)),
        *of_places(seen),
        *of_shelves(seen),
        *of_let_in(seen),
        *of_shares(seen),
        *of_leases(seen),
        *of_models(seen),
        *of_indices(seen),
        *(line for id, plan in seen.plans.items() for line in of_a_plan(seen, id, plan)),
    ]


def of_a_job(seen: Seen, id: str, job: JobSeen) -> Iterator[str]:
    """Its counts are what they count, its steps are in states that its own allows, something moves it."""
    state, n, v = job.state, job.number("n"), job.number("v")
    if "half" in job.fields or ("hp" in job.fields and not pointed(seen, job)):
        yield f"{id} is half written"
    if state not in OPEN | ENDED:
        yield f"{id}: state {state!r}"
        return
    heads = {step: h for step, h in job.heads.items() if step != TURN}
    if set(heads) != {str(i) for i in range(n)}:
        yield f"{id}: n is {n}, heads are {sorted(heads)}"
    if missing := [s for s in heads if f"q{s}" not in job.fields]:
        yield f"{id}: no request of {missing}"
    written = {s for s, h in heads.items() if h.state in ("done", "failed")}
    if written != set(job.outcomes()):
        yield f"{id}: outcomes of {sorted(job.outcomes())}, by the heads of {sorted(written)}"
    orders, left_out = sorted(heads[s].order for s in written), job.number("og")
    if len({*orders}) != v or (orders and not 0 < orders[0] <= orders[-1] <= v + left_out):
        yield f"{id}: v is {v}, {left_out} are left out, the orders of outcomes are {orders}"
    if stray := [s for s, h in heads.items() if h.order and s not in written]:
        yield f"{id}: {stray} have an order and no outcome"
    for step, h in job.heads.items():
        if job.follows(step) and not fits(state, step, h):
            yield f"{id}/{step} is {h.state} in a {state} job"
        if h.charged and h.state != "leased":
            yield f"{id}/{step} is {h.state} and has charged {h.charged}"
        if (h.counted or h.capped) and h.state != "leased":
            yield f"{id}/{step} is {h.state} and counts against a limit"
    due = id in seen.one["due"]
    if ("sw" in job.fields) != (id in seen.one["sweeps"]):
        yield f"{id} stands at {job.text('sw')!r}, in `sweeps`: {id in seen.one['sweeps']}"
    followed = "sw" not in job.fields
    if state == "running" and followed and not due and not any(h.state in WAITS for h in job.heads.values()):
        yield f"{id} is running and nothing will move it"
    if due and state != "running":
        yield f"{id} is {state} and its turn is due"
    lives = state in OPEN or not followed
    if lives != (seen.ttl[f"job:{id}"] == -1):
        yield f"{id}: {state}, and its time to live is {seen.ttl[f'job:{id}']} ms"
    if id in seen.events and lives != (seen.ttl[f"ev:{id}"] == -1):
        yield f"{id}: {state}, and the time to live of its events is {seen.ttl[f'ev:{id}']} ms"
    if state in ENDED and "t1" not in job.fields:
        yield f"{id}: {state}, without a time of its end"


def pointed(seen: Seen, job: JobSeen) -> bool:
    """It belongs to a plan that is there, or that somebody is submitting: then nobody sees either."""
    plan, points = job.text("pl"), job.text("hp")
    if plan not in seen.plans:
        return False
    name = plan if points == "half" else f"{plan}/{points[1:]}"
    return not seen.plans[plan].get(points) or name in seen.one["plans"]


def fits(state: str, step: str, h: Head) -> bool:
    """Whether a step may be in its state while its job is in that one."""
    if step == TURN:
        return h.state != "ready" or state == "running"
    return {
        "pending": state == "waiting",
        "ready": state == "running",
        "timed": state in ("running", "paused"),
        "waiting": state in ("running", "paused"),
        "parked": state == "paused",
        "leased": state != "waiting",
        "dropped": state in ENDED,
        "done": True,  # (in a waiting job: a late answer to a claim that Redis has lost)
        "failed": True,
    }.get(h.state, False)


def of_places(seen: Seen) -> Iterator[str]:
    """Every ready step waits in exactly one place, which fits it; a sleep on its timer; nothing else does."""
    places = seen.places()
    for id, job in seen.jobs.items():
        for step, h in job.heads.items():
            m = f"{id}/{step}"
            where = places.pop(m, [])
            if h.state == "ready":
                if len(where) != 1:
                    yield f"{m} is ready and waits in {len(where)} places: {where}"
                for kind, name in where:
                    if not right(seen, job, h, kind, name):
                        yield f"{m} ({h} of {job.tenant}) waits in {kind}:{name}"
                    elif behind_strays(seen, h, m, kind):
                        continue
                    elif kind != "timers" and seen.sets[kind][name][m] != float(h.rank):
                        yield f"{m} has rank {h.rank!r} and waits in {kind} by {seen.sets[kind][name][m]!r}"
            elif h.state == "timed":
                if where != [("timers", "")]:
                    yield f"{m} is timed and waits in {where}"
            elif where:
                yield f"{m} is {h.state} and waits in {where}"
    for m, where in places.items():
        yield f"{m} is no step of any job and waits in {where}"


def right(seen: Seen, job: JobSeen, h: Head, kind: str, name: str) -> bool:
    """Whether a ready step may wait there."""
    first, _, compartment = name.partition("|")
    policy, _, fair = seen.lane(h.lane)
    current = policy is None or h.policy in ("", policy)
    if kind == "ready":
        return name == (f"{h.lane}|{job.tenant}" if fair else h.lane) and current
    if kind == "stray":
        return name == h.lane
    if kind == "held":
        if first[0] == "?":
            agent = job.text("who").partition("|")[2]
            need = f"code/{agent}@{h.code}" if h.code else f"agent/{agent}"
            need = f"model/{h.label}" if h.kind == "llm" else need
            wanted = first[1:] in seen.sets["wanted"].get(h.lane, ())
            return first[1:] == need and wanted and compartment in ("", job.tenant)
        if first == f"@{job.tenant}":
            return compartment in ("", h.lane)
        return first == h.label and compartment in ("", job.tenant) and h.kind == "llm"
    return True


def behind_strays(seen: Seen, h: Head, m: str, kind: str) -> bool:
    """Whether it came while others were to be ranked anew, and waits behind them whatever its rank."""
    return kind == "stray" or (kind == "held" and m in seen.sets["astray"].get(h.lane, ()))


def of_shelves(seen: Seen) -> Iterator[str]:
    """Tenants are known where they wait; what goes by age is what waits; no held step is forgotten."""
    for kind in ("ready", "held"):
        sets, aged = seen.sets[kind], seen.sets[f"{kind}old"]
        known = {f"{name}|{t}" for name, ts in seen.sets[f"{kind}by"].items() for t in ts}
        if known != {name for name in sets if "|" in name}:
            yield f"{kind}: tenants that wait are {sorted(known)}, sets are {sorted(sets)}"
        for name in {*sets, *aged}:
            expected = {}
            for m in sets.get(name, ()):
                id, _, step = m.rpartition("/")
                h = seen.jobs[id].heads.get(step) if id in seen.jobs else None
                if h is not None and seen.lane(h.lane)[1] > 0:
                    expected[m] = float(h.ready)

            def settled(members: dict[str, float], kind: str = kind) -> dict[str, float]:
                """Without those whose place by age is decided when they are ranked anew."""
                heads = {m: seen.head(m) for m in members if kind == "held"}
                astray = {m for m, h in heads.items() if h is not None and seen.astray(h.lane, m)}
                return {m: at for m, at in members.items() if m not in astray}

            if settled(aged.get(name, {})) != settled(expected):
                yield f"{kind}old:{name} is {aged.get(name, {})}, what waits there is {expected}"
    for name, members in seen.sets["held"].items():
        model = name.partition("|")[0]
        for m in members:
            id, _, step = m.rpartition("/")
            h = seen.jobs[id].heads.get(step) if id in seen.jobs else None
            if h is None:
                continue
            astray = seen.astray(h.lane, m)
            policy = seen.lane(h.lane)[0]
            if policy and h.policy not in ("", policy) and not astray:
                yield f"{m} is held, ranked under {h.policy} and not under {policy}, and not astray"
            if model not in seen.sets["holds"].get(h.lane, ()):
                yield f"{m} is held by {model}, which holds:{h.lane} does not name"


def of_counts(seen: Seen) -> Iterator[str]:
    """How many steps stand in tenants' sets is counted."""
    sums: dict[str, int] = defaultdict(int)
    for kind in ("ready", "held"):
        for name, members in seen.sets[kind].items():
            shelf, part, _ = name.partition("|")
            sums[f"{kind}:{shelf}"] += len(members) if part else 0
    says = {field: int(count) for field, count in seen.hashes["waits"].get("", {}).items() if field != "!"}
    if {f: n for f, n in says.items() if n} != {f: n for f, n in sums.items() if n}:
        yield f"counted are {says}, there wait {dict(sums)}"


def of_let_in(seen: Seen) -> Iterator[str]:
    """What was let in stands on its lane; where a limit of calls has room, nothing is held by it."""
    places, count = seen.places(), defaultdict(int)
    for name, members in seen.sets["in"].items():
        lane, _, limit = name.partition("|")
        for m, rank in members.items():
            id, _, step = m.rpartition("/")
            h = seen.jobs[id].heads.get(step) if id in seen.jobs else None
            stands = [kind for kind, where in places.get(m, []) if where.partition("|")[0] == lane]
            if h is None or stands not in (["ready"], ["stray"]):
                yield f"{m} counts as let in to {lane}, and stands in {places.get(m)}"
            elif limit not in (h.label, f"@{seen.jobs[id].tenant}") or rank != float(h.rank):
                yield f"{m} ({h}) counts by {rank} as let in to {lane} by {limit}"
        count[lane, limit] = len(members)
    for shelf, members in seen.sets["held"].items():
        limit = shelf.partition("|")[0]
        most, now = seen.model(limit, "l_if"), seen.now
        other = [f for f in ("l_rpm", "l_tpm", "win") if seen.model(limit, f)]
        again = seen.one["timers"].get(f"model:{limit}/!", now + 1)
        if limit[0] == "?" or not most or other or seen.model(limit, "hold") > now or again <= now:
            continue
        busy = len(seen.sets["inflight"].get(limit, ()))
        lanes = {seen.jobs[m.rpartition("/")[0]].heads[m.rpartition("/")[2]].lane for m in members}
        for lane in lanes:
            if busy + count[lane, limit] < most and limit not in seen.swept:
                room = f"{busy} + {count[lane, limit]} of {most:.0f}"
                yield f"{limit} holds {sorted(members)}, and has room: {room}"


def of_shares(seen: Seen) -> Iterator[str]:
    """Where tenants wait by what they have been charged, none is ahead of it."""
    for lane, tenants in seen.sets["readyby"].items():
        yield from ahead(seen, f"readyby:{lane}", lane, tenants)
    for model, tenants in seen.sets["heldby"].items():
        if model[0] not in "?@":  # on a scale of its own
            continue
        lane = seen.hashes["model"].get(model, {}).get("ln", b"").decode()
        yield from ahead(seen, f"heldby:{model}", lane, tenants)


def ahead(seen: Seen, where: str, lane: str, tenants: dict[str, float]) -> Iterator[str]:
    for tenant, score in tenants.items():
        if score > float(seen.hashes["share"].get(lane, {}).get(tenant, 0)):
            yield f"{tenant} stands in {where} by {score}, and has been charged less"


def of_leases(seen: Seen) -> Iterator[str]:
    """Every leased step has its lease, every lease its step."""
    expected = {
        h.lease(id, step): (id, step)
        for id, job in seen.jobs.items()
        for step, h in job.heads.items()
        if h.state == "leased"
    }
    for name in expected.keys() - seen.one["leases"].keys():
        yield f"{name} is leased and has no lease"
    for name in seen.one["leases"].keys() - expected.keys():
        yield f"{name} is a lease of a step that is not leased"


def of_models(seen: Seen) -> Iterator[str]:
    """In flight is what is leased and counts; a window's sum is its entries'; what is held is let in."""
    counted: dict[str, set[str]] = defaultdict(set)
    moved: set[str] = (
        set()
    )  # models and tenants of which a step waits on a lane: its claim lets the others in
    places = seen.places()
    for id, job in seen.jobs.items():
        for step, h in job.heads.items():
            if h.state == "leased" and h.counted:
                counted[h.label].add(h.lease(id, step))
            if h.state == "leased" and h.capped:
                counted[f"@{job.tenant}"].add(h.lease(id, step))
            where = places[f"{id}/{step}"]
            others = any(kind == "held" and name[0] == "?" for kind, name in where)  # when one that can comes
            if h.state == "ready" and others:
                moved.add(h.label)
            if h.state == "ready" and any(kind in ("ready", "stray") for kind, _ in where):
                moved |= {h.label, f"@{job.tenant}"}
    for name in {*counted, *seen.sets["inflight"]}:
        inflight = set(seen.sets["inflight"].get(name, ()))
        if inflight != counted[name]:
            yield f"inflight:{name} is {sorted(inflight)}, by the heads {sorted(counted[name])}"
    for name, window in seen.sets["window"].items():
        tokens = sum(int(entry.rpartition("|")[2]) for entry in window)
        if tokens != seen.model(name, "tok"):
            yield f"window:{name} holds {tokens} tokens, its sum says {seen.model(name, 'tok'):.0f}"
        if len({entry.rpartition("|")[0] for entry in window}) != len(window):
            yield f"window:{name} counts a call twice: {sorted(window)}"
    for name in seen.sets["held"]:
        model = name.partition("|")[0]
        if model[0] != "?" and not (
            counted[model]
            or model in seen.swept
            or f"model:{model}/!" in seen.one["timers"]
            or model in moved
        ):
            yield f"nothing will let in what {model} holds: {sorted(seen.sets['held'][name])}"
        if model[0] != "?" and model not in moved and model not in seen.swept and has_room(seen, model):
            yield f"{model} has room, and holds {sorted(seen.sets['held'][name])}"


def has_room(seen: Seen, model: str) -> bool:
    """Whether each of the steps that a limit holds may run now, and nobody will look at them at once."""
    now = seen.now
    soon = seen.one["timers"].get(f"model:{model}/!")
    if (soon is not None and soon <= now) or seen.model(model, "hold") > now or seen.model(model, "win"):
        return False
    most, rpm, tpm = (seen.model(model, field) for field in ("l_if", "l_rpm", "l_tpm"))
    if 0 < most <= len(seen.sets["inflight"].get(model, ())):
        return False
    window = [m for m, at in seen.sets["window"].get(model, {}).items() if at > now - MINUTE]
    if not window:
        return True
    tokens = sum(int(m.rpartition("|")[2]) for m in window)
    shelves = [ms for name, ms in seen.sets["held"].items() if name.partition("|")[0] == model]
    heads = [seen.head(m) for members in shelves for m in members]
    largest = max((h.est for h in heads if h is not None), default=0)
    return not 0 < rpm <= len(window) and not 0 < tpm < tokens + largest


def of_indices(seen: Seen) -> Iterator[str]:
    """Open, ended, deadlines and due name the jobs that they are to name."""
    for id, job in seen.jobs.items():
        if (job.state in OPEN) != (id in seen.one["open"]):
            yield f"{id} is {job.state}, in `open`: {id in seen.one['open']}"
        if (job.state in ENDED) != (id in seen.one["ended"]):
            yield f"{id} is {job.state}, in `ended`: {id in seen.one['ended']}"
    parked = {id: job for id, job in seen.jobs.items() if "pk" in job.fields}
    for id, job in parked.items():
        if job.state != "paused":
            yield f"{id} is {job.state}, and parked"
    if (named := {*seen.one["parked"]}) != {f"{job.text('pk')}|{id}" for id, job in parked.items()}:
        yield f"`parked` names {sorted(named)}, parked are {sorted(parked)}"
    behind = {f"{job.text('pl')}|{id}" for id, job in parked.items() if job.text("pl")}
    if (named := {*seen.one["parkedin"]}) != behind:
        yield f"`parkedin` names {sorted(named)}, parked in plans are {sorted(behind)}"
    for name in ("open", "deadlines", "due"):
        for id in seen.one[name]:
            if id not in seen.jobs or seen.jobs[id].state not in OPEN:
                yield f"`{name}` names {id}, which is {seen.jobs[id].state if id in seen.jobs else 'gone'}"
    if ghosts := seen.one["sweeps"].keys() - seen.jobs.keys():
        yield f"`sweeps` names {sorted(ghosts)}, which are gone"
    if seen.one["dirty"]:
        yield f"marked are {sorted(seen.one['dirty'])}"
    for m in seen.one["dead"]:
        id, _, step = m.rpartition("/")
        job = seen.jobs.get(id)
        if job and step != TURN and step in job.heads and job.heads[step].state != "failed":
            yield f"{m} is a dead letter and {job.heads[step].state}"


def of_a_plan(seen: Seen, id: str, fields: dict[str, bytes]) -> Iterator[str]:
    """Members admitted and ended are as many as its nodes say, in an order that their modes allow."""
    nodes = {f[4:]: msgspec.msgpack.decode(v) for f, v in fields.items() if f.startswith("node")}

    def left(child: str) -> bool:
        """The plan waits for it no longer: it has ended, or goes its own way since a retry."""
        if child[0] == "j":
            job = seen.jobs.get(child[1:])
            return job is None or job.state in ENDED or job.text("pl") != id
        return all(left(c) for c in children(child[1:]))

    def begun(child: str) -> bool:
        if child[0] == "j":
            job = seen.jobs.get(child[1:])
            return job is None or job.state != "waiting" or job.text("pl") != id
        return nodes[child[1:]][4] > 0 or left(child)

    def children(i: str) -> list[str]:
        return [fields[f"c{i}.{k}"].decode() for k in range(int(nodes[i][2]))]

    at_work = bool(fields.get("todo") or fields.get("now"))
    to_do = {f"n{node}" for node in fields.get("todo", b"").decode().split()}  # (just come to)
    if (at_work or bool(fields.get("half"))) != (id in seen.one["plans"]):
        yield f"plan {id} has {fields.get('todo')!r} to do, in `plans`: {id in seen.one['plans']}"
    if fields.get("now"):
        yield f"plan {id} is left at {fields['now']!r}"
    if fields.get("half"):
        return  # what stands of it, nobody sees
    begun_nodes, over, rest = {"0"}, 0, ["0"]
    while rest:  # (of an extension that is half there, nothing is under the root)
        inner = [c[1:] for c in children(rest.pop()) if c[0] == "n"]
        begun_nodes |= {*inner}
        rest += inner
    for i in sorted(begun_nodes):
        mode, _parent, count, ended, admitted, *_ = nodes[i]
        members = children(i)
        over += i != "0" and ended == count
        if not 0 <= ended <= admitted <= count:
            yield f"plan {id}, node {i}: {ended} ended of {admitted} admitted of {count}"
        if late := [c for c in members[:admitted] if not begun(c) and c not in to_do]:
            yield f"plan {id}, node {i}: {admitted} admitted, and {late} wait"
        if early := [c for c in members[admitted:] if begun(c) and not left(c)]:
            yield f"plan {id}, node {i}: {admitted} admitted, and {early} run"
        if (gone := sum(left(c) for c in members[:admitted])) != ended and not at_work:
            yield f"plan {id}, node {i}: {ended} ended, by its members {gone}: {members}"
        if mode == "fixed" and admitted - ended > 1:
            yield f"plan {id}, node {i}: {admitted - ended} members of a fixed order at once"
    root = nodes["0"]
    state = fields["st"].decode()
    if (state == "running") != (root[3] < root[2]) and not at_work:
        yield f"plan {id} is {state}, {root[3]} of {root[2]} members have ended"
    if (state == "running") != (seen.ttl[f"plan:{id}"] == -1):
        yield f"plan {id} is {state}, and its time to live is {seen.ttl[f'plan:{id}']} ms"
    far = [int(n) for n in fields.get("far", b"0|0|0").split(b"|")]
    ends = sum(nodes[i][3] for i in begun_nodes) - over
    if far[1] + far[2] != ends and not at_work:
        yield f"plan {id}: {far} admitted, ended, dropped, by its nodes {ends} have ended"
    jobs = sum(c[0] == "j" for i in begun_nodes for c in children(i))
    if int(fields["all"]) != jobs:
        yield f"plan {id}: of {fields['all']!r} jobs, there are {jobs}"
    if not far[1] <= far[0] <= jobs:
        yield f"plan {id}: {far} admitted, ended, dropped of {jobs}"


def between(before: Seen, after: Seen, *, again: frozenset[str], moved: bool) -> Iterator[str]:
    """What may not change from one verb to the next.

    Args:
        before, after: the fleet.
        again: jobs that were retried, or whose ids were used anew, in between.
        moved: steps may have got other ranks.
    """
    for id, was in before.jobs.items():
        now = after.jobs.get(id)
        if now is None or now is was or id in again:
            continue
        if now.state not in JOB_PATHS[was.state]:
            yield f"{id} was {was.state} and is {now.state}"
        for field, value in was.fields.items():
            fixed = field in ("rec", "t0", "pl", "pn", "from") or (field[0] in "oq" and field[1:].isdigit())
            if was.state in ENDED:
                fixed = fixed or field in ("st", "res", "t1", "n")
            if fixed and now.fields.get(field) != value:
                yield f"{id}: {field} was {value!r} and is {now.fields.get(field)!r}"
        if now.money() < was.money():
            yield f"{id}: um was {was.money()} and is {now.money()}"
        for field in ("n", "v", "up", "uo", "uc", "ue", "us"):
            if now.number(field) < was.number(field):
                yield f"{id}: {field} was {was.number(field)} and is {now.number(field)}"
        for step, h in was.heads.items():
            other = now.heads.get(step)
            if other is None or step == TURN:
                continue
            if other.state not in STEP_PATHS[h.state]:
                yield f"{id}/{step} was {h.state} and is {other.state}"
            if other.attempt < h.attempt:
                yield f"{id}/{step}: attempt {h.attempt} became {other.attempt}"
            begun = h.state not in ("pending", "dropped")
            # Another lane may be in another round, also when a step went there and came back.
            ranked = other.rank == h.rank or other.lane != h.lane or other.since == ROUND
            if begun and not moved and was.follows(step) and not (ranked and other.ready == h.ready):
                yield f"{id}/{step}: its rank was {h.rank} and is {other.rank}"
        was_events, now_events = before.events.get(id, []), after.events.get(id, [])
        if now_events[: len(was_events)] != was_events:
            yield f"{id}: events that were said are others now"
