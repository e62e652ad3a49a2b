import os

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
        store.add("state", 0, unit, contribution(value))
    assert store.captures("state") == {"a", "b"}
    arrays = store.arrays("state")
    assert np.array_equal(arrays["sum"], np.full(3, -0.5))
    assert np.array_equal(arrays["peak"], [1.5, 2.0])


def test_the_same_work_opens_again_and_other_work_is_refused(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    store.add("state", 0, "a", contribution(1))
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
    (tmp_path / "work" / "state@prompt00000.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ArgumentError, match=r"state@prompt00000\.safetensors"):
        store.captures("state")


def test_remove_leaves_nothing(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    store.add("state", 0, "a", contribution(1))
    store.remove()
    assert not list(tmp_path.iterdir())


def test_sums_do_not_depend_on_who_computed_what(tmp_path):
    """Prompts are joined in their order, whatever the order they came in."""
    values = [np.float32(1e8), np.float32(3.0), np.float32(-1e8)]
    results = []
    for name, order in (("one", (0, 1, 2)), ("other", (2, 0, 1))):
        store = WorkDirectory(tmp_path / name)
        store.open(FACTS)
        for prompt in order:
            array = np.array([values[prompt]])
            store.add("state", prompt, f"p{prompt}", Contribution({"sum": array}))
            store.fold("state", [["p0"], ["p1"], ["p2"]])
        assert len(list((tmp_path / name).glob("state*.safetensors"))) == 1
        assert store.captures("state") == {"p0", "p1", "p2"}
        results.append(store.arrays("state")["sum"])
    assert np.array_equal(*results)


def test_folding_stops_at_a_prompt_that_is_not_complete(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    prompts = [["a", "b"], ["c"]]
    store.add("state", 0, "a", contribution(1.0))
    store.add("state", 1, "c", contribution(2.0))
    store.fold("state", prompts)
    assert len(list((tmp_path / "work").glob("state@*"))) == 2
    store.add("state", 0, "b", contribution(4.0))
    store.fold("state", prompts)
    assert not list((tmp_path / "work").glob("state@*"))
    assert np.array_equal(store.arrays("state")["sum"], np.full(3, 7.0))


def test_a_file_joined_but_not_yet_deleted_counts_once(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    store.add("state", 0, "a", contribution(1.0))
    part = tmp_path / "work" / "state@prompt00000.safetensors"
    kept = part.read_bytes()
    store.fold("state", [["a"]])
    part.write_bytes(kept)
    assert np.array_equal(store.arrays("state")["sum"], np.full(3, 1.0))
    store.fold("state", [["a"]])
    assert not part.exists()


def test_a_lock_is_held_by_one_and_names_its_owner(tmp_path):
    store = WorkDirectory(tmp_path / "work")
    store.open(FACTS)
    with store.lock("prompt0") as mine, WorkDirectory(store.path).lock("prompt0") as other:
        assert mine
        assert not other
        assert f"process {os.getpid()}" in store.owner("prompt0")
    with store.lock("prompt0") as mine:
        assert mine
