import random, sys
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from tests.driver.core import Broken
from tests.driver.scheduling import Scheduling as Driver
from tests.driver.fleet import Fleet

seed = int(sys.argv[1])
kind = sys.argv[2] if len(sys.argv) > 2 else "redis"
with EmbeddedRedis(find_server(kind)) as server:
    fleet = Fleet(server.url, "one", ())
    d = Driver(fleet, random.Random(seed))
    try:
        for _ in range(400):
            d.move()
        d.drain()
        print("fine")
    except Broken as e:
        print(e)
        if len(sys.argv) > 3:
            s = d.seen if len(sys.argv) > 4 else d.fleet.look_without_ends()
            print({k: v for k, v in s.one.items() if k in ("timers", "limited", "leases")})
            import pprint

            for id in sys.argv[3].split(","):
                j = s.jobs[id]
                print(id, j.tenant, {k: h for k, h in j.heads.items()})
            for kind in (
                "ready",
                "held",
                "readyold",
                "heldold",
                "heldby",
                "window",
                "inflight",
                "holds",
                "in",
                "stray",
                "astray",
            ):
                print(kind, {k: v for k, v in s.sets[kind].items()})
            print({k: v for k, v in s.hashes["model"].items()})
            print(s.hashes["lane"])
            print(s.hashes["tenant"])
            print(s.now, d.fleet.now)
