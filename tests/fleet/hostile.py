"""What somebody might put on a lane's list: malformed, of another kind, or what Celery would act upon."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

GOOD: dict[str, Any] = {
    "body": "[[],{},{}]",
    "content-type": "application/json",
    "headers": {"task": "aios.step", "id": "a1", "root_id": "a1"},
    "properties": {"delivery_tag": "a1", "delivery_info": {"exchange": "", "routing_key": "llm"}},
}


def but(**changes: Any) -> bytes:
    """A ticket, but for these fields (``a__b`` is b in a); ``...`` leaves one out."""
    changed = json.loads(json.dumps(GOOD))
    for path, value in changes.items():
        place = changed
        *above, last = path.split("__")
        for name in above:
            place = place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(changed).encode()


def bomb(size: int) -> bytes:
    """A ticket whose body becomes ``size`` bytes."""
    body = base64.b64encode(zlib.compress(b"0" * size)).decode()
    return but(headers__compression="application/x-gzip", body=body, properties__body_encoding="base64")


def malformed(
    touched: Path = Path("touched"), bomb_bytes: int = 1_000_000, long: int = 1_000_000
) -> dict[str, bytes]:
    """What is to be dropped, by name. ``touched``: a file that some of it would make if it were obeyed."""
    touch = f"touch {touched}"
    call = {"task": "aios.step", "args": [], "kwargs": {}}
    follow = {"callbacks": [{**call, "options": {"queue": "llm"}}], "errbacks": None, "chord": None}
    shell = {"task": "os.system", "args": [touch]}
    return {
        "not JSON": b"garbage",
        "no UTF-8": b'{"body": "\xff\xfe"}',
        "nothing": b"",
        "null": b"null",
        "a list": b"[]",
        "a number": b"5",
        "an empty object": b"{}",
        "5,000 lists in each other": b"[" * 5000 + b"]" * 5000,
        "5,000 lists in each other, in a field": b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "no headers": but(headers=...),
        "headers of null": but(headers=None),
        "headers in a list": but(headers=[]),
        "no properties": but(properties=...),
        "no id": but(headers__id=...),
        "an object as id": but(headers__id={"a": 1}),
        "an id of a megabyte": but(headers__id="x" * long),
        "a line end in the id": but(headers__id="a\nb"),
        "no task": but(headers__task=...),
        "another task": but(headers__task="os.system"),
        "celery.map": but(headers__task="celery.map", body=json.dumps([[call, [[1]]], {}, {}])),
        "celery.chain": but(headers__task="celery.chain", body='[[],{"tasks":[]},{}]'),
        "celery.chord_unlock": but(
            headers__task="celery.chord_unlock", body=json.dumps([["x", call], {}, {}])
        ),
        "arguments": but(body='[[1,2,3],{"x":1},{}]'),
        "a body that is no JSON": but(body="{{{"),
        "a body of null": but(body=None),
        "a number as body": but(body=5),
        "an object as body": but(body={}),
        "a list as body": but(body=[1]),
        "tasks that are to follow": but(body=json.dumps([[], {}, {**follow, "chain": [shell]}])),
        "a pickle": but(
            body=base64.b64encode(pickle.dumps({"a": 1})).decode(),
            properties__body_encoding="base64",
            **{"content-type": "application/x-python-serialize"},
        ),
        "YAML": but(
            body=f"!!python/object/apply:os.system ['{touch}']", **{"content-type": "application/x-yaml"}
        ),
        "a time far off": but(headers__eta="2099-01-01T00:00:00+00:00"),
        "a time that is none": but(headers__eta="zzz"),
        "an end long past": but(headers__expires="2000-01-01T00:00:00+00:00"),
        "an end that is none": but(headers__expires="zzz"),
        "limits of time": but(headers__timelimit=[0.001, 0.001]),
        "limits of time that are none": but(headers__timelimit="x"),
        "retries that are no number": but(headers__retries="x"),
        "another encoding": but(**{"content-encoding": "rot13"}),
        "a bomb": bomb(bomb_bytes),
        "a long body": but(body="[" + "0," * long + "0]"),
        "a long name of a lane": but(properties__delivery_info__routing_key="x" * long),
        "an unknown encoding of the body": but(properties__body_encoding="rot13"),
        "base64 that is none": but(body="!!!", properties__body_encoding="base64"),
    }


ODD_BUT_GOOD = {
    "no delivery tag": but(properties__delivery_tag=...),
    "a delivery tag of null": but(properties__delivery_tag=None),
    "another lane's name": but(properties__delivery_info__routing_key="nolane"),
    "a list as the lane's name": but(properties__delivery_info__routing_key=["x"]),
    "a priority that is none": but(properties__priority="x"),
    "a field that nobody knows": but(headers__later={"a": [1]}),
}
"""What is wrong where nobody looks: tickets like any other."""
