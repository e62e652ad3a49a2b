"""Damage at random: a valid plan or `PlanError` comes out, in bounded memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paro_trt.errors import PlanError
from paro_trt.plan import ParoPlan, load_plan

from .forge import VERSION_2 as PLAN
from .forge import Forgery

HONEST = Forgery.of(PLAN).build()
HEADER_BYTES = 8 + int.from_bytes(HONEST[:8], "little")
HASH = PLAN.content_hash()

MEMORY = 16 << 20
SECONDS = 5.0

SWEEP = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every content hash matches, so that all other checks are reached."""
    with monkeypatch.context() as patch:
        patch.setattr(ParoPlan, "content_hash", lambda _: HASH)
        yield


def load(content: bytes, path: Path) -> ParoPlan | None:
    """The plan in `content`, or None where it is refused."""
    path.write_bytes(content)
    plan, refusal = None, ""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        plan = load_plan(path)
    except PlanError as error:
        refusal = str(error)
    finally:
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert refusal.isprintable()
    assert peak < MEMORY
    assert seconds < SECONDS
    return plan


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An honest file after a few edits: octets changed, cut out, put in, or the end lost."""
    data = bytearray(HONEST)
    for _ in range(draw(st.integers(1, 3))):
        # Half of the edits fall into the header, which is a small part of the file.
        end = draw(st.sampled_from([HEADER_BYTES, len(data)]))
        at = draw(st.integers(0, min(end, len(data)) - 1)) if data else 0
        piece = draw(st.binary(max_size=4))
        match draw(st.sampled_from(["flip", "cut", "insert", "truncate", "replace"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "insert":
                data[at:at] = piece
            case "truncate":
                del data[at:]
            case _:
                data[at : at + len(piece)] = piece
    return bytes(data)


@given(content=damaged())
@SWEEP
def test_damaged_bytes_never_pass_unnoticed(content: bytes, tmp_path: Path) -> None:
    plan = load(content, tmp_path / "a")
    assert plan is None or plan.content_hash() == HASH


@given(content=damaged())
@SWEEP
@pytest.mark.usefixtures("unsealed")
def test_damaged_bytes_without_the_hash(content: bytes, tmp_path: Path) -> None:
    plan = load(content, tmp_path / "a")
    assert plan is None or 0 < plan.density() <= 1


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


PLACES = list(places(Forgery.of(PLAN).document))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.integers(-2, 200)
    | st.floats()
    | st.floats(-1, 1000)
    | st.text(max_size=5)
    | st.sampled_from([path[-1] for path in PLACES]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(edits=st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=2))
@SWEEP
@pytest.mark.usefixtures("unsealed")
def test_any_json_value_anywhere(edits: list[tuple[Any, Any]], tmp_path: Path) -> None:
    forgery = Forgery.of(PLAN)
    document = json.loads(json.dumps(forgery.document))
    for path, value in edits:
        place = document
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier edit took the place away
    forgery.document = document
    plan = load(forgery.build(), tmp_path / "a")
    assert plan is None or 0 < plan.density() <= 1
