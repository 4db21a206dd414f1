"""NumPy archives: arrays under fixed names, nothing pickled, and errors that name the array."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import Pooled, arrays, iid, npz
from fedloom.errors import ComponentError, DataError

GOOD = {
    "features": np.array([[61.0, 120.0], [40.0, 118.0], [55.5, 100.0], [33.0, 99.0]]),
    "label": np.array(["ill", "well", "well", "ill"]),
    "client": np.array(["north", "south", "north", "south"]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.npz"


def read(path: Path, held: Mapping[str, object], **changed: object) -> Pooled:
    np.savez(path, allow_pickle=True, **held)  # type: ignore[arg-type]
    return npz(path, **{"test": 0.0, **changed})  # type: ignore[arg-type]


def test_arrays_are_features_labels_and_clients(path: Path) -> None:
    data = read(path, {**GOOD, "columns": np.array(["age", "bp"])})
    assert (data.schema().columns, data.schema().label, data.schema().classes) == (("age", "bp"), "label", None)
    north = data.client(ClientId("north"))
    assert north.arrays["features"].tolist() == [[61.0, 120.0], [55.5, 100.0]]
    assert north.arrays["label"].tolist() == ["ill", "well"]
    assert read(path, GOOD).schema().columns == ("x0", "x1")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_kept_as_they_are(path: Path, dtype: str) -> None:
    assert read(path, {**GOOD, "features": GOOD["features"].astype(dtype)}).features.dtype == dtype


def test_it_splits_as_arrays_in_memory_do(path: Path) -> None:
    features, label = np.arange(80.0).reshape(40, 2), np.arange(40) % 2
    held = {"features": features, "label": label, "group": np.arange(40) // 2, "classes": np.array(["0", "1"])}
    one = read(path, held, partition=iid(3), test=0.3, seed=7)
    two = arrays(features, label, partition=iid(3), test=0.3, seed=7, group=np.arange(40) // 2)
    assert [one.client(name).fingerprint for name in one.roll.names] == [
        two.client(name).fingerprint for name in two.roll.names
    ]


def test_folds_and_texts_are_used_where_they_are(path: Path) -> None:
    held = {
        **GOOD,
        "fold": np.array(["train", "train", "test", "validation"]),
        "texts": np.array([["f"], ["m"], ["?"], ["f"]]),
        "text_columns": np.array(["sex"]),
    }
    data = read(path, held, test=0.25)
    assert data.schema().texts == ("sex",)
    assert data.client(ClientId("north")).split("test").arrays["texts"].tolist() == [[""]]
    with pytest.raises(ComponentError, match=r"leave out test = 0\.5"):
        read(path, held, test=0.5)


def test_whole_numbers_are_indices_of_named_classes(path: Path) -> None:
    data = read(path, {**GOOD, "label": np.array([1, 0, 0, 1]), "classes": np.array(["well", "ill"])})
    assert data.schema().classes == ("well", "ill")
    assert data.client(ClientId("north")).arrays["label"].tolist() == [1, 0]
    named = read(path, {**GOOD, "classes": np.array(["well", "ill"])})
    assert named.client(ClientId("north")).arrays["label"].tolist() == [1, 0]


def test_whole_numbers_are_names_where_classes_are_numbers(path: Path) -> None:
    data = read(path, {**GOOD, "label": np.array([1, 2, 2, 1]), "classes": np.array(["2", "1"])})
    assert data.client(ClientId("north")).arrays["label"].tolist() == [1, 0]


def test_a_regression_keeps_numbers(path: Path) -> None:
    data = read(path, {**GOOD, "label": np.array([1, 2, 3, 4])}, task="regression")
    assert data.label.dtype == np.float64
    assert sorted(data.label.tolist()) == [1.0, 2.0, 3.0, 4.0]


def test_a_file_says_whose_a_row_is_or_a_partition_does(path: Path) -> None:
    with pytest.raises(ComponentError, match="has an array 'client'"):
        read(path, GOOD, partition=iid(2))
    with pytest.raises(ComponentError, match="received neither"):
        read(path, {name: GOOD[name] for name in ("features", "label")})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": None}, "there is no array 'features'"),
        ({"label": None, "labels": np.arange(4)}, "there is no array 'label'. Did you mean 'labels'"),
        ({"features": np.ones(4)}, "features have shape"),
        ({"features": np.array([["a"]] * 4)}, "not all numbers"),
        ({"features": np.ones((4, 2), dtype=object)}, "array 'features' cannot be read: it holds Python objects"),
        ({"label": np.array(["a", None, "b", "c"], dtype=object)}, "array 'label' cannot be read"),
        ({"label": np.array([b"a"] * 4)}, "array 'label' holds neither numbers nor text"),
        ({"label": np.arange(3)}, "array 'label' has shape (3,)"),
        ({"client": np.array([["a"]] * 4)}, "array 'client' has shape (4, 1)"),
        ({"group": np.arange(5)}, "array 'group' has shape (5,)"),
        ({"columns": np.array(["age"])}, "has 1 names"),
        ({"columns": np.array(["age", "age"])}, "1 different ones"),
        ({"columns": np.array([["age", "bp"]])}, "array 'columns' has shape (1, 2)"),
        ({"texts": np.array([["f"]] * 4)}, "array 'texts' has type <U1 and shape (4, 1), and 'text_columns' 0 names"),
        ({"text_columns": np.array(["sex"])}, "'text_columns' 1 names"),
        ({"texts": np.array([["f"]] * 3), "text_columns": np.array(["sex"])}, "array 'texts' has shape (3, 1)"),
        ({"features": np.array([[1.0, 2.0]] * 3 + [[1.0, np.inf]])}, "row 3, counted from 0: column 'x1' is infinite"),
        ({"label": np.array([0.5, 1.0, 2.0, 2.0])}, "row 0, counted from 0: column 'label' is a number with decimals"),
        ({"label": np.array([1.0, np.nan, 2.0, 2.0])}, "row 1, counted from 0: column 'label' is missing"),
        ({"client": np.array(["a", "", "b", "b"])}, "row 1, counted from 0: column 'client' is missing"),
        ({"label": np.array([0, 1, 2, 0]), "classes": np.array(["a", "b"])}, "row 2, counted from 0: the label is the"),
        ({"classes": np.array(["ill", "worse"])}, "row 1, counted from 0: column 'label' has the label 'well'"),
        ({"fold": np.array(["train", "train", "tset", "test"])}, "row 2, counted from 0: column 'fold' is 'tset'"),
    ],
)
def test_a_fault_names_file_and_array(path: Path, changed: dict[str, np.ndarray | None], words: str) -> None:
    held = {name: array for name, array in {**GOOD, **changed}.items() if array is not None}
    with pytest.raises(DataError) as caught:
        read(path, held, test=0.25)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was loaded')",))


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps(Boom())])
def test_what_is_no_archive_is_named_and_never_unpickled(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"visits\.npz: is no NumPy archive"):
        npz(path)


def test_one_bare_array_is_no_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataError, match=r"visits\.npz: is one array"):
        npz(path)


def test_a_damaged_archive_is_named(path: Path) -> None:
    np.savez(path, features=np.ones((500, 3)), label=np.arange(500))
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"visits\.npz: array 'features' cannot be read"):
        npz(path, partition=iid(1))


def test_a_missing_file_is_named_with_the_nearest_one(path: Path) -> None:
    np.savez(path, features=np.ones((2, 1)))
    with pytest.raises(DataError, match=r"visit\.npz: there is no such file\. Did you mean 'visits\.npz'"):
        npz(path.with_name("visit.npz"))
