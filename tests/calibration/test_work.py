import numpy as np
import pytest

from paro_trt.calibration.work import Contribution, WorkDirectory
from paro_trt.errors import ArgumentError

FACTS = {"model": "m", "steps": 20, "shape": [1, 2]}


def contribution(value: float) -> Contribution:
    return Contribution({"sum": np.full(3, value)}, {"peak": np.array([value, -value])})


def test_units_add_up_once_each(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    assert not store.open(FACTS)
    assert store.captures("state") == frozenset()
    assert store.arrays("state") == {}
    for unit, value in (("a", 1.5), ("b", -2.0), ("a", 100.0)):
        store.add("state", unit, contribution(value))
    assert store.captures("state") == {"a", "b"}
    arrays = store.arrays("state")
    assert np.array_equal(arrays["sum"], np.full(3, -0.5))
    assert np.array_equal(arrays["peak"], [1.5, 2.0])


def test_the_same_work_opens_again_and_other_work_is_refused(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    store.add("state", "a", contribution(1))
    assert WorkDirectory(tmp_path / "work").open({**FACTS, "shape": (1, 2)})
    with pytest.raises(ArgumentError, match="steps differ"):
        store.open({**FACTS, "steps": 21})
    assert store.captures("state") == {"a"}


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ArgumentError, match="something else"):
        WorkDirectory(tmp_path).open(FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_work_is_named(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    (tmp_path / "work" / "state.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ArgumentError, match=r"state\.safetensors"):
        store.captures("state")


def test_remove_leaves_nothing(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    store.add("state", "a", contribution(1))
    store.remove()
    assert not list(tmp_path.iterdir())
