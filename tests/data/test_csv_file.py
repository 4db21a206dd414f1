"""CSV files: what is read, and errors that say where to look."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import Pooled, csv, iid
from fedloom.errors import ComponentError, DataError

GOOD = "age,ward,bp,outcome\n61,north,120,ill\n40,south,,well\n55.5,north,1e2,well\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "visits.csv"


def read(path: Path, content: str | bytes, **changed: object) -> Pooled:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return csv(path, **{"label": "outcome", "client": "ward", "test": 0.0, **changed})  # type: ignore[arg-type]


def test_features_labels_and_clients_come_from_their_columns(path: Path) -> None:
    data = read(path, GOOD)
    north = data.client(ClientId("north"))
    assert data.schema().columns == ("age", "bp")
    assert (data.schema().label, data.schema().classes) == ("outcome", None)
    assert north.arrays["features"].tolist() == [[61.0, 120.0], [55.5, 100.0]]
    assert north.arrays["label"].tolist() == ["ill", "well"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_change_nothing(path: Path, end: str, mark: str) -> None:
    plain = read(path, GOOD).client(ClientId("north")).fingerprint
    assert read(path, mark + GOOD.replace("\n", end)).client(ClientId("north")).fingerprint == plain


@pytest.mark.parametrize("cell", ["", "?", "NA", "nan", "NaN", " na "])
def test_cells_that_stand_for_nothing_become_nan(path: Path, cell: str) -> None:
    data = read(path, f"age,ward,outcome\n{cell},north,ill\n1,north,well\n")
    assert np.isnan(data.features).tolist() == [[True], [False]]


def test_quotes_hold_commas_and_line_ends(path: Path) -> None:
    data = read(path, 'age,ward,outcome\n1,"ward, north","very\nill"\n2,"ward, north",well\n')
    assert data.client(ClientId("ward, north")).arrays["label"].tolist() == ["very\nill", "well"]


def test_chosen_columns_are_read_in_the_given_order_and_others_may_be_text(path: Path) -> None:
    data = read(path, "note,age,bp,ward,outcome\nhello,1,2,n,a\nworld,3,4,n,b\n", columns=["bp", "age"])
    assert data.features.tolist() == [[2.0, 1.0], [4.0, 3.0]]


def test_a_regression_label_is_a_number(path: Path) -> None:
    data = read(path, "age,ward,outcome\n1,n,2.5\n2,n,3\n", task="regression")
    assert data.label.tolist() == [2.5, 3.0]


def test_persons_stay_on_one_side(path: Path) -> None:
    rows = "".join(f"{index},{index // 4},{index % 2}\n" for index in range(40))
    data = read(path, "age,person,outcome\n" + rows, client=None, partition=iid(1), group="person", test=0.5)
    client = data.client(ClientId("client-0"))
    train, test = (client.split(fold).arrays["features"][:, 0] // 4 for fold in ("train", "test"))
    assert data.schema().columns == ("age",)
    assert not set(train) & set(test)
    assert len(test) == 20


def test_a_spec_holds_the_path_and_the_partition(path: Path) -> None:
    spec = read(path, GOOD, client=None, partition=iid(2), columns=["age"]).spec
    assert spec is not None
    assert (spec.group, spec.name, spec.arguments["path"]) == ("fedloom.datasets", "csv", path.as_posix())
    assert spec.arguments["partition"]["name"] == "iid"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("\ufeff", "is empty"),
        ("age,ward,outcome\n", "no rows below the header"),
        ("age;ward;outcome\n1;n;a\n", "line 1: columns are separated by semicolons"),
        ("age,ward,age,outcome\n", "line 1: two columns are named 'age'"),
        ("age,,ward,outcome\n", "line 1: column 2 has no name"),
        ("age,ward,outcome\n1,n,a\n\n2,n\n", "line 4: 2 fields; expected 3"),
        ("age,ward,outcome\n1,n,a\n2,n,a,b\n", "line 3: 4 fields; expected 3"),
        ('age,ward,outcome\n1,n,"a\nb"\nx,n,a\n', "line 4: column 'age' is not a number"),
        ("age,ward,outcome\n1_000,n,a\n", "line 2: column 'age' is not a number"),
        ('age,ward,outcome\n"1,5",n,a\n', "line 2: column 'age'"),
        ("age,ward,outcome\n1,n,\n", "line 2: column 'outcome' is missing"),
        ("age,ward,outcome\n1,n,NA\n", "line 2: column 'outcome' is missing"),
        ("age,ward,outcome\n1, ,a\n", "line 2: column 'ward' is missing"),
        ("age,ward,outcom\n1,n,a\n", "no column 'outcome'. Did you mean 'outcom'"),
        ("age,wards,outcome\n1,n,a\n", "no column 'ward'. Did you mean 'wards'"),
        ("ward,outcome\nn,a\n", "one or more different features"),
        ('age,ward,outcome\n1,n,a\n2,"n,a\n3,n,a\n', "line 3: is not CSV"),
        (b"age,ward,outcome\r\n1,n,a\r\n2,\xff,a\r\n", "line 3: is not UTF-8"),
    ],
)
def test_a_fault_in_the_file_is_named_with_its_place(path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(path, content)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_a_regression_label_that_is_text_is_named_with_its_place(path: Path) -> None:
    with pytest.raises(DataError, match="line 3: column 'outcome' is not a number"):
        read(path, "age,ward,outcome\n1,n,2.5\n2,n,ill\n", task="regression")


def test_unknown_group_and_feature_columns_are_named(path: Path) -> None:
    with pytest.raises(DataError, match="no column 'patient'"):
        read(path, GOOD, group="patient")
    with pytest.raises(DataError, match=r"no column 'agee'\. Did you mean 'age'"):
        read(path, GOOD, columns=["agee"])
    with pytest.raises(DataError, match="none of them label, client or group"):
        read(path, GOOD, columns=["age", "outcome"])


def test_a_missing_file_is_named_with_the_nearest_one(path: Path) -> None:
    path.write_text(GOOD)
    with pytest.raises(DataError, match=r"visit\.csv: there is no such file\. Did you mean 'visits.csv'"):
        csv(path.with_name("visit.csv"), label="outcome", client="ward")
    with pytest.raises(DataError, match="there is no such file"):
        csv(path.parent / "absent" / "visits.csv", label="outcome", client="ward")


def test_a_folder_is_not_a_file(path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        csv(path.parent, label="outcome", client="ward")


def test_client_and_partition_exclude_each_other(path: Path) -> None:
    with pytest.raises(ComponentError, match="client and partition: received both"):
        read(path, GOOD, partition=iid(2))
    with pytest.raises(ComponentError, match="client and partition: received neither"):
        read(path, GOOD, client=None)


@pytest.mark.slow
def test_thirty_thousand_rows_of_twenty_five_cells_take_less_than_two_seconds(path: Path) -> None:
    header = ",".join([f"x_{place}" for place in range(24)] + ["outcome"])
    row = ",".join(["0.123456789"] * 24 + ["ill"])
    content = "\n".join([header] + [row] * 30_000)
    path.write_text(content)
    start = time.perf_counter()
    csv(path, label="outcome", partition=iid(10))
    assert time.perf_counter() - start < 2
