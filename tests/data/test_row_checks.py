"""Warnings and errors about a client's rows that never show a value."""

from __future__ import annotations

import numpy as np
import pytest

from fedloom.core.data import ClientDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.data import check_rows, grouped_notes
from fedloom.errors import DataError

B = ClientId("hospital b")
SCHEMA = Schema(("age", "bp"), "outcome", ("well", "ill"))
WITH_TEXTS = Schema(("age", "bp"), "outcome", ("well", "ill"), ("sex", "ward"))


def client(
    features: np.ndarray, label: np.ndarray | None = None, texts: list[list[str]] | None = None
) -> ClientDataset:
    label = np.arange(len(features)) % 2 if label is None else label
    arrays = {"features": features, "label": label}
    if texts is not None:
        arrays["texts"] = np.array(texts)
    return ClientDataset(arrays, {"train": slice(0, len(features))})


def varied(rows: int = 6) -> np.ndarray:
    return np.arange(2.0 * rows).reshape(rows, 2)


def test_good_rows_give_no_warnings() -> None:
    assert check_rows(B, client(varied()), SCHEMA, columns=("age", "bp")) == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_unusable_features_name_client_column_count_and_rows_and_no_value(bad: float) -> None:
    features = varied(8) + 7000.0
    features[[1, 2, 3, 4, 5, 6], 1] = bad
    with pytest.raises(DataError) as caught:
        check_rows(B, client(features), SCHEMA)
    message = str(caught.value)
    assert "hospital b: column `bp` is NaN or infinite in 6 of 8 rows (first: 1, 2, 3, 4, 5)" in message
    assert "70" not in message
    assert "`age`" not in message


def test_many_unusable_columns_are_counted() -> None:
    schema = Schema(tuple(f"x{place}" for place in range(9)), "y", ("a", "b"))
    with pytest.raises(DataError, match=r"`x4` .* and 4 more columns"):
        check_rows(B, client(np.full((3, 9), np.nan)), schema)


def test_a_label_of_a_regression_must_be_finite() -> None:
    with pytest.raises(DataError, match="label `outcome` is NaN or infinite in 1 of 2 rows"):
        check_rows(B, client(varied(2), np.array([1.0, np.nan])), Schema(("age", "bp"), "outcome"))


def test_a_missing_column_is_named_where_names_are_known() -> None:
    with pytest.raises(DataError, match="hospital b: expects 2 features, has 1; missing `age`"):
        check_rows(B, client(varied()[:, :1]), SCHEMA, columns=("bp",))
    with pytest.raises(DataError, match=r"expects 2 features, has 1\. Give"):
        check_rows(B, client(varied()[:, :1]), SCHEMA)
    with pytest.raises(DataError, match="missing `bp`, not expected `sex`"):
        check_rows(B, client(varied()), SCHEMA, columns=("age", "sex"))


def test_constant_columns_and_one_class_are_warnings() -> None:
    features = varied(4)
    features[:, 1] = 3.0
    warnings = check_rows(B, client(features, np.ones(4, dtype=np.int64)), SCHEMA)
    assert warnings == (
        "hospital b: column `bp` is constant over its 4 training rows",
        "hospital b: all of its 4 training rows are of one class",
    )


def test_a_client_without_training_rows_is_a_warning() -> None:
    assert check_rows(B, ClientDataset(dict(client(varied()).arrays)), SCHEMA) == ("hospital b: has no training rows",)


def test_equal_numbers_to_predict_are_not_one_class() -> None:
    assert check_rows(B, client(varied(3), np.ones(3)), Schema(("age", "bp"), "outcome")) == ()


def test_columns_in_another_order_are_an_error() -> None:
    with pytest.raises(DataError, match="another order: `bp` where `age` is expected"):
        check_rows(B, client(varied()), SCHEMA, columns=("bp", "age"))


def test_allowed_missing_values_are_one_warning_with_columns_counts_and_rows_and_no_value() -> None:
    features = varied(8) + 7000.0
    features[[1, 2, 3, 4, 5, 6], 1] = np.nan
    features[7, 0] = np.nan
    assert check_rows(B, client(features), SCHEMA, missing="allow") == (
        "hospital b: values are missing: `age` in 1 of 8 rows (first: 7); `bp` in 6 of 8 rows (first: 1, 2, 3, 4, 5)",
    )


def test_an_infinite_feature_is_an_error_where_missing_values_are_allowed_too() -> None:
    features = varied()
    features[0, 0], features[1, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"hospital b: column `bp` is infinite in 1 of 6 rows \(first: 1\)"):
        check_rows(B, client(features), SCHEMA, missing="allow")


def test_a_missing_label_to_predict_is_an_error_where_missing_features_are_allowed() -> None:
    with pytest.raises(DataError, match="label `outcome` is NaN"):
        check_rows(B, client(varied(2), np.array([1.0, np.nan])), Schema(("age", "bp"), "outcome"), missing="allow")


def test_a_column_without_any_value_and_one_constant_but_for_holes_are_told_apart() -> None:
    features = varied(300)
    features[:, 0] = np.nan
    features[:, 1] = [np.nan] * 200 + [4.0] * 100
    notes = check_rows(B, client(features), SCHEMA, missing="allow")
    assert notes[1:] == (
        "hospital b: column `age` is without any value in its 300 training rows",
        "hospital b: column `bp` is constant over its 300 training rows",
    )


def test_a_column_that_varies_late_is_not_constant() -> None:
    features = np.ones((300, 2))
    features[299] = 2.0
    assert check_rows(B, client(features), SCHEMA) == ()


def test_texts_are_looked_at_for_holes_constant_and_empty_columns() -> None:
    texts = [["f", "n"], ["f", "s"], ["", "n"], ["f", "n"], ["f", "n"], ["f", "n"]]
    assert check_rows(B, client(varied(), texts=texts), WITH_TEXTS) == (
        "hospital b: values are missing: `sex` in 1 of 6 rows (first: 2)",
    )
    constant = [["f", ""]] * 6
    assert check_rows(B, client(varied(), texts=constant), WITH_TEXTS)[1:] == (
        "hospital b: column `ward` is without any value in its 6 training rows",
        "hospital b: column `sex` is constant over its 6 training rows",
    )


def test_texts_must_be_as_many_as_the_schema_has() -> None:
    with pytest.raises(DataError, match=r"texts have shape \(6, 1\); expected \(rows, 2\)"):
        check_rows(B, client(varied(), texts=[["f"]] * 6), WITH_TEXTS)
    with pytest.raises(DataError, match=r"texts have shape \(6, 0\)"):
        check_rows(B, client(varied()), WITH_TEXTS)


def test_many_constant_columns_are_one_sentence() -> None:
    schema = Schema(tuple(f"x{place}" for place in range(9)), "y", ("a", "b"))
    assert check_rows(B, client(np.ones((3, 9))), schema) == (
        "hospital b: columns `x0`, `x1`, `x2`, `x3`, `x4` and 4 more are constant over its 3 training rows",
    )


def test_notes_of_one_kind_are_kept_for_few_clients_and_counted_for_the_others() -> None:
    warnings = {
        ClientId(f"c{index}: 1"): [f"c{index}: 1: all of its {index} training rows are of one class"]
        for index in range(9)
    }
    warnings[ClientId("z")] = ["z: has no training rows"]
    notes = grouped_notes(warnings, limit=2)
    assert notes == (
        "c0: 1: all of its 0 training rows are of one class",
        "c1: 1: all of its 1 training rows are of one class",
        "7 more clients have training rows of one class: `c2: 1`, `c3: 1`, `c4: 1`, `c5: 1`, `c6: 1` and 2 more",
        "z: has no training rows",
    )


def test_every_kind_of_note_of_a_client_is_a_kind_of_its_own() -> None:
    features = np.ones((4, 2))
    features[:, 0] = np.nan
    rows = client(features, np.zeros(4, dtype=np.int64))
    notes = {name: check_rows(name, rows, SCHEMA, missing="allow") for name in map(ClientId, "abc")}
    assert [len(each) for each in notes.values()] == [4, 4, 4]
    assert grouped_notes(notes, limit=1)[1::2] == (
        "2 more clients have missing values: `b`, `c`",
        "2 more clients have columns without a value: `b`, `c`",
        "2 more clients have constant columns: `b`, `c`",
        "2 more clients have training rows of one class: `b`, `c`",
    )
