"""CSV files: what is read, and errors that say where to look."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import Pooled, csv, iid
from fedloom.errors import ComponentError, DataError

CREDIT = Path(__file__).parents[3] / "shared" / "data" / "credit_default" / "UCI_Credit_Card.csv"
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
        ("ward,outcome\nn,a\n", "line 1: expected one or more features beside outcome, ward"),
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
    for columns in (["age", "outcome"], ["age", "age"], ["ward"]):
        with pytest.raises(ComponentError, match="different features, none of them label, client, group or fold"):
            read(path, GOOD, columns=columns)


def test_a_missing_file_is_named_with_the_nearest_one(path: Path) -> None:
    path.write_text(GOOD)
    with pytest.raises(DataError, match=r"visit\.csv: there is no such file\. Did you mean 'visits.csv'"):
        csv(path.with_name("visit.csv"), label="outcome", client="ward")
    with pytest.raises(DataError, match="there is no such file"):
        csv(path.parent / "absent" / "visits.csv", label="outcome", client="ward")


def test_a_folder_is_not_a_file(path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        csv(path.parent, label="outcome", client="ward")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(path: Path) -> None:
    path.write_text(GOOD)
    with pytest.raises(DataError, match=r"cannot be read: Not a directory"):
        csv(path / "inner.csv", label="outcome", client="ward")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_without_permission_is_named(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        csv(path, label="outcome", client="ward")


MIXED = "sex,age,ward,outcome\nf,61,north,ill\n m ,40,south,well\nNA,33,north,well\n"


def test_categories_are_texts_beside_the_numbers_and_missing_ones_are_empty(path: Path) -> None:
    data = read(path, MIXED, categories=["sex"])
    north = data.client(ClientId("north"))
    assert (data.schema().columns, data.schema().texts) == (("age",), ("sex",))
    assert north.arrays["texts"].tolist() == [["f"], [""]]
    assert north.arrays["texts"].dtype.kind == "U"
    assert data.client(ClientId("south")).arrays["texts"].tolist() == [["m"]]


def test_a_category_is_the_same_whether_written_with_a_decimal_point_or_not(path: Path) -> None:
    data = read(path, "cp,age,ward,outcome\n4.0,1,n,a\n4,2,n,b\n04,3,n,b\n", categories=["cp"])
    assert data.client(ClientId("n")).arrays["texts"].ravel().tolist() == ["4", "4", "04"]


def test_categories_may_be_all_features_and_may_stand_in_columns_too(path: Path) -> None:
    content = "sex,ward,outcome\nf,north,ill\nm,north,well\n"
    alone = read(path, content, categories=["sex"])
    named = read(path, content, categories=["sex"], columns=["sex"])
    assert alone.features.shape == (2, 0)
    assert (alone.schema(), alone.fingerprint) == (named.schema(), named.fingerprint)


def test_a_dataset_without_texts_has_no_array_of_them(path: Path) -> None:
    assert set(read(path, GOOD).client(ClientId("north")).arrays) == {"features", "label"}


def test_the_fingerprint_covers_texts(path: Path) -> None:
    one = read(path, MIXED, categories=["sex"]).fingerprint
    assert read(path, MIXED.replace("f,61", "m,61"), categories=["sex"]).fingerprint != one
    assert read(path, MIXED, categories=["sex"]).fingerprint == one


def test_a_text_in_a_column_of_numbers_points_to_categories(path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: column 'sex' is not a number.*`categories`"):
        read(path, MIXED)


def test_names_in_place_of_lists_of_names_are_refused(path: Path) -> None:
    with pytest.raises(ComponentError, match=r"categories = 'sex'; expected a list of names"):
        read(path, MIXED, categories="sex")
    with pytest.raises(ComponentError, match="categories"):
        read(path, MIXED, categories=["ward"])


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999"])
def test_an_infinite_number_is_refused_with_its_line(path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"visits\.csv: line 4: column 'bp' is infinite"):
        read(path, f"age,bp,ward,outcome\n1,2,n,a\n\n3,{cell},n,a\n")
    with pytest.raises(DataError, match=r"line 3: column 'outcome' is infinite"):
        read(path, f"age,ward,outcome\n1,n,2\n2,n,{cell}\n", task="regression")


def test_declared_classes_make_labels_indices_in_their_order(path: Path) -> None:
    data = read(path, GOOD, classes=["well", "ill", "worse"])
    assert data.schema().classes == ("well", "ill", "worse")
    assert data.client(ClientId("north")).arrays["label"].tolist() == [1, 0]
    text = read(path, GOOD)
    assert np.array(data.schema().classes)[data.label].tolist() == text.label.tolist()


def test_a_label_that_was_not_declared_is_refused_with_its_line(path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: column 'outcome' has the label 'ill', .*'well', 'worse' \(1 such"):
        read(path, GOOD, classes=["well", "worse"])


@pytest.mark.parametrize("classes", [["well", "well"], ["well"], "well"])
def test_classes_are_two_or_more_different_names(path: Path, classes: object) -> None:
    with pytest.raises(ComponentError, match="two or more different names"):
        read(path, GOOD, classes=classes)


def test_classes_and_regression_exclude_each_other(path: Path) -> None:
    with pytest.raises(ComponentError, match="exclude each other"):
        read(path, GOOD, classes=["ill", "well"], task="regression")


FOLDED = "age,ward,set,outcome\n1,n,train,a\n2,n,test,b\n3,n,train,b\n4,n,validation,a\n"


def test_a_column_of_folds_is_the_split_and_no_feature(path: Path) -> None:
    path.write_text(FOLDED)
    data = csv(path, label="outcome", client="ward", fold="set")
    client = data.client(ClientId("n"))
    assert data.schema().columns == ("age",)
    ages = {name: client.split(name).arrays["features"].ravel().tolist() for name in ("train", "validation", "test")}
    assert ages == {"train": [1.0, 3.0], "validation": [4.0], "test": [2.0]}


def test_an_unknown_fold_is_refused_with_its_line(path: Path) -> None:
    path.write_text(FOLDED.replace("validation", "dropped"))
    with pytest.raises(DataError, match="line 5: column 'set' is 'dropped'; expected one of train, validation, test"):
        csv(path, label="outcome", client="ward", fold="set")


def test_a_column_of_folds_excludes_shares(path: Path) -> None:
    with pytest.raises(ComponentError, match=r"leave out test = 0.0"):
        read(path, FOLDED, fold="set")


def test_a_label_that_only_test_rows_have_is_refused_with_its_place_unless_declared(path: Path) -> None:
    content = FOLDED.replace("2,n,test,b", "2,n,test,rare")
    path.write_text(content)
    with pytest.raises(DataError, match=r"visits\.csv: line 3: column 'outcome' has a label that no training row has"):
        csv(path, label="outcome", client="ward", fold="set")
    data = csv(path, label="outcome", client="ward", fold="set", classes=["a", "b", "rare"])
    assert data.client(ClientId("n")).split("test").arrays["label"].tolist() == [2]


def test_persons_at_several_clients_are_counted_and_not_named(path: Path) -> None:
    rows = "1,n,ann,a\n2,n,ann,b\n3,s,ann,a\n4,s,bob,b\n5,s,bob,a\n"
    data = read(path, "age,ward,person,outcome\n" + rows, group="person")
    assert len(data.notes) == 1
    assert data.notes[0].startswith("1 of 2 groups (persons) have rows at more than one client")
    assert "ann" not in data.notes[0]
    assert read(path, GOOD).notes == ()


@pytest.mark.skipif(not CREDIT.exists(), reason=f"{CREDIT} is not there")
@pytest.mark.slow
def test_credit_records_with_categories_are_the_same_numbers() -> None:
    label, texts = "default.payment.next.month", ["SEX", "EDUCATION", "MARRIAGE"]
    plain = csv(CREDIT, label=label, partition=iid(5))
    named = csv(CREDIT, label=label, partition=iid(5), categories=texts)
    assert named.features.shape == (30_000, 21)
    places = [plain.schema().columns.index(name) for name in texts]
    assert named.texts is not None
    assert (named.texts.astype(float) == plain.features[:, places]).all()
    others = [plain.schema().columns.index(name) for name in named.schema().columns]
    assert (named.features == plain.features[:, others]).all()
    assert sorted(set(named.texts[:, 1])) == ["0", "1", "2", "3", "4", "5", "6"]


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
