"""A folder of one file for each client: the same columns everywhere, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import Pooled, check_rows, csv, folder
from fedloom.errors import ComponentError, DataError

HEART = Path(__file__).parents[3] / "shared" / "data" / "heart_disease"
COLUMNS = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
HEADER = "age,bp,outcome\n"


def write(place: Path, **files: str) -> Path:
    for name, content in files.items():
        (place / f"{name}.csv").write_text(content)
    return place


def read(place: Path, **changed: object) -> Pooled:
    return folder(place, **{"label": "outcome", "test": 0.0, **changed})  # type: ignore[arg-type]


def test_a_file_is_a_client_and_the_order_of_its_columns_does_not_matter(tmp_path: Path) -> None:
    data = read(write(tmp_path, north=HEADER + "61,120,ill\n40,,well\n", south="outcome,bp,age\nwell,118,33\n"))
    assert data.schema().columns == ("age", "bp")
    north, south = (data.client(ClientId(name)) for name in ("north", "south"))
    assert np.array_equal(north.arrays["features"], np.array([[61, 120], [40, np.nan]]), equal_nan=True)
    assert south.arrays["features"].tolist() == [[33.0, 118.0]]
    assert (north.arrays["label"].tolist(), south.arrays["label"].tolist()) == (["ill", "well"], ["well"])


def test_it_is_the_one_csv_with_a_column_of_clients(tmp_path: Path) -> None:
    rows = {
        name: [f"{index},{index * base},{'ab'[index % 2]}" for index in range(20)] for base, name in enumerate("sn")
    }
    write(tmp_path, **{name: HEADER + "\n".join(lines) + "\n" for name, lines in rows.items()})
    apart = folder(tmp_path, label="outcome", test=0.3, seed=4)
    lines = [f"{name},{line}" for name, held in rows.items() for line in held]
    (tmp_path / "all.txt").write_text("ward," + HEADER + "\n".join(lines) + "\n")
    pooled = csv(tmp_path / "all.txt", label="outcome", client="ward", test=0.3, seed=4)
    for name in rows:
        assert apart.client(ClientId(name)).fingerprint == pooled.client(ClientId(name)).fingerprint


def test_categories_classes_groups_and_folds_work_as_in_one_csv(tmp_path: Path) -> None:
    header = "sex,age,person,set,outcome\n"
    data = folder(
        write(tmp_path, n=header + "f,1,ann,train,ill\nm,2,bob,test,well\n", s=header + "m,3,ann,train,well\n"),
        label="outcome",
        categories=["sex"],
        classes=["well", "ill"],
        group="person",
        fold="set",
    )
    north = data.client(ClientId("n"))
    assert (data.schema().columns, data.schema().texts) == (("age",), ("sex",))
    assert north.split("test").arrays["texts"].tolist() == [["m"]]
    assert north.arrays["label"].tolist() == [1, 0]
    assert data.notes[0].startswith("1 of 2 groups (persons)")


def test_b17_a_file_that_lacks_a_column_is_named_with_the_column(tmp_path: Path) -> None:
    names = [f"x{place}" for place in range(19)]
    full, line = ",".join([*names, "age", "outcome"]) + "\n", ",".join(["1"] * 20 + ["ill"]) + "\n"
    less = ",".join([*names, "outcome"]) + "\n" + ",".join(["1"] * 19 + ["ill"]) + "\n"
    write(tmp_path, a=less, b=full + line, c=full + line)
    with pytest.raises(DataError, match=r"a\.csv: expects 20 features, has 19; missing `age`"):
        read(tmp_path)


def test_b17_surplus_and_misspelt_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path, a=HEADER + "1,2,ill\n", b=HEADER + "1,2,ill\n", c="age,pb,sex,outcome\n1,2,3,ill\n")
    with pytest.raises(DataError, match=r"c\.csv: expects 2 features, has 3; missing `bp`, not expected `pb`, `sex`"):
        read(tmp_path)


def test_chosen_columns_may_be_some_of_many(tmp_path: Path) -> None:
    write(tmp_path, a="note,bp,age,outcome\nx,1,2,ill\n", b="age,bp,outcome\n3,4,ill\n")
    assert read(tmp_path, columns=["bp"]).features.ravel().tolist() == [1.0, 4.0]
    with pytest.raises(DataError, match=r"b\.csv: expects 2 features, has 1; missing `note`"):
        read(tmp_path, columns=["bp", "note"])


def test_a_file_without_the_label_is_named(tmp_path: Path) -> None:
    write(tmp_path, a=HEADER + "1,2,ill\n", b="age,bp\n1,2\n")
    with pytest.raises(DataError, match=r"b\.csv: line 1: there is no column 'outcome'"):
        read(tmp_path)


def test_b15_a_file_without_rows_is_named(tmp_path: Path) -> None:
    write(tmp_path, a=HEADER + "1,2,ill\n", b=HEADER)
    with pytest.raises(DataError, match=r"b\.csv: no rows below the header"):
        read(tmp_path)
    write(tmp_path, b="")
    with pytest.raises(DataError, match=r"b\.csv: is empty"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2,ill\n1,old,ill\n", "line 3: column 'bp' is not a number"),
        ("1,2,ill\n1,inf,ill\n", "line 3: column 'bp' is infinite"),
        ("1,2,ill\n1,2,\n", "line 3: column 'outcome' is missing"),
        ("1,2,ill\n1,2,dead\n", "line 3: column 'outcome' has the label 'dead'"),
    ],
)
def test_a_fault_in_a_later_file_is_named_with_its_own_line(tmp_path: Path, content: str, words: str) -> None:
    write(tmp_path, a=HEADER + "1,2,ill\n" * 5, b=HEADER + content)
    with pytest.raises(DataError, match=rf"b\.csv: {words}"):
        read(tmp_path, classes=["ill", "well"])


def test_a_label_that_only_test_rows_have_is_named_with_its_file(tmp_path: Path) -> None:
    header = "age,set,outcome\n"
    write(tmp_path, a=header + "1,train,x\n2,test,x\n", b=header + "1,train,y\n3,test,z\n")
    with pytest.raises(DataError, match=r"b\.csv: line 3: column 'outcome' has a label that no training row"):
        folder(tmp_path, label="outcome", fold="set")


def test_what_does_not_match_the_pattern_or_is_hidden_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path, north=HEADER + "1,2,ill\n")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.csv").write_text("?")
    (tmp_path / ".cache").mkdir()
    assert [*read(tmp_path).roll.names] == ["north"]


def test_a_folder_within_is_refused(tmp_path: Path) -> None:
    write(tmp_path, north=HEADER + "1,2,ill\n")
    (tmp_path / "old").mkdir()
    with pytest.raises(DataError, match="old: is a folder; expected one file for each client"):
        read(tmp_path)


def test_two_files_of_one_client_are_refused(tmp_path: Path) -> None:
    write(tmp_path, north=HEADER + "1,2,ill\n")
    (tmp_path / "north.CSV").write_text(HEADER + "1,2,ill\n")
    with pytest.raises(DataError, match=r"is for the client 'north', as is north\."):
        read(tmp_path, pattern="*.*")


@pytest.mark.parametrize(
    ("pattern", "error", "words"),
    [
        ("*.parquet", DataError, r"no file is named \*\.parquet; there is north\.csv, notes\.txt"),
        ("*.txt", DataError, r"notes\.txt: expected a name that ends in \.csv, \.npz, \.parquet"),
        ("**/*.csv", ComponentError, "expected names in one folder"),
        ("", ComponentError, "expected names in one folder"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(
    tmp_path: Path, pattern: str, error: type[Exception], words: str
) -> None:
    write(tmp_path, north=HEADER + "1,2,ill\n")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(error, match=words):
        read(tmp_path, pattern=pattern)


def test_a_folder_that_is_not_there_or_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "clinics").mkdir()
    with pytest.raises(DataError, match=r"clinic: there is no such folder\. Did you mean 'clinics'"):
        read(tmp_path / "clinic")
    with pytest.raises(DataError, match=r"clinics: no file is named \*\.csv; there is nothing"):
        read(tmp_path / "clinics")
    write(tmp_path, north=HEADER)
    with pytest.raises(DataError, match=r"north\.csv: is a file; expected a folder"):
        read(tmp_path / "north.csv")


def test_archives_are_read_by_the_names_of_their_arrays(tmp_path: Path) -> None:
    for name, values in [("a", [[1.0, 2.0]]), ("b", [[3.0, 4.0], [5.0, 6.0]])]:
        np.savez(
            tmp_path / f"{name}.npz",
            features=np.array(values),
            columns=np.array(["age", "bp"]),
            texts=np.array([["f"]] * len(values)),
            text_columns=np.array(["sex"]),
            label=np.array(["x"] * len(values)),
        )
    data = folder(tmp_path, label="label", pattern="*.npz", categories=["sex"], columns=["bp"], test=0.0)
    assert data.features.ravel().tolist() == [2.0, 4.0, 6.0]
    assert data.client(ClientId("b")).arrays["texts"].tolist() == [["f"], ["f"]]
    with pytest.raises(DataError, match=r"a\.npz: column 'sex' is one of 'text_columns'"):
        folder(tmp_path, label="label", pattern="*.npz", test=0.0)
    with pytest.raises(DataError, match=r"a\.npz: there is no array 'outcome'"):
        read(tmp_path, pattern="*.npz", categories=["sex"])


@pytest.mark.skipif(not HEART.exists(), reason=f"{HEART} is not there")
def test_the_four_hospitals_as_published_with_their_categories_and_holes(tmp_path: Path) -> None:
    for source in HEART.glob("processed.*.data"):
        name = source.name.split(".")[1]
        (tmp_path / f"{name}.csv").write_text(COLUMNS + "\n" + source.read_text())
    categories = ["cp", "restecg", "slope", "thal"]
    data = folder(tmp_path, label="num", categories=categories, classes=list("01234"))
    held = {name: data.client(name) for name in data.roll.names}
    assert {name: len(rows) for name, rows in held.items()} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    # Some hospitals write 4, others 4.0: it is one category.
    assert data.texts is not None
    assert sorted(set(data.texts[:, 0])) == ["1", "2", "3", "4"]
    counts = np.bincount(held[ClientId("va")].arrays["label"]).tolist()
    assert counts == [51, 56, 41, 42, 10]
    notes = check_rows(ClientId("switzerland"), held[ClientId("switzerland")], data.schema(), missing="allow")
    assert notes[0].startswith("switzerland: values are missing: `trestbps` in 2 of 123 rows")
    assert "column `chol` is constant over its" in notes[1]
    with pytest.raises(DataError, match="switzerland: column `trestbps` is NaN or infinite in 2 of 123 rows"):
        check_rows(ClientId("switzerland"), held[ClientId("switzerland")], data.schema())
