"""Real tables: what preparations make of them over clients, against scikit-learn on the pooled rows.

The data lie beside the repository (``../shared/data``, each folder has a README); tests are skipped where they do not.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.analytics import impute, label_set, min_max, one_hot, ordinal, standardise
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.query import AnyPreparation

SHARED = Path(__file__).parents[3] / "shared" / "data"
CREDIT = SHARED / "credit_default"
HEART = SHARED / "heart_disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
Answer = Callable[..., Any]
Table = tuple[Schema, list[ClientDataset]]

needs_credit = pytest.mark.skipif(not (CREDIT / "splits.csv").exists(), reason=f"{CREDIT} is not there")
needs_heart = pytest.mark.skipif(not (HEART / "splits.csv").exists(), reason=f"{HEART} is not there")


@cache
def banks() -> Table:
    """Return five banks by credit limit, SEX, EDUCATION and MARRIAGE as numbers, the folds of the README."""
    with (CREDIT / "UCI_Credit_Card.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    with (CREDIT / "splits.csv").open(newline="") as file:
        splits = list(csv.DictReader(file))
    cells = np.array(lines, dtype=float)
    label = cells[:, -1].astype(int).astype(str)
    silo, test = np.array([row["silo_limit"] for row in splits]), np.array([row["fold"] == "test" for row in splits])
    held = []
    for name in sorted(set(silo.tolist())):
        order = np.concatenate([np.flatnonzero((silo == name) & (test == part)) for part in (False, True)])
        train = int(((silo == name) & ~test).sum())
        rows = {"train": slice(0, train), "test": slice(train, len(order))}
        held.append(ClientDataset({"features": cells[order, 1:-1], "label": label[order]}, rows))  # type: ignore[arg-type]
    return Schema(tuple(header[1:-1]), header[-1]), held


@cache
def hospitals() -> Table:
    """Return four hospitals with all columns and rows, missing values among them; categories as text."""
    names = ("age", "trestbps", "chol", "thalach", "oldpeak", "ca")
    numbers, texts = (0, 3, 4, 7, 9, 11), (1, 2, 5, 6, 8, 10, 12)
    held = []
    for hospital in HOSPITALS:
        lines = (HEART / f"processed.{hospital}.data").read_text().splitlines()
        cells = np.array([["" if cell == "?" else cell for cell in line.split(",")] for line in lines if line])
        features = np.where(cells[:, numbers] == "", "nan", cells[:, numbers]).astype(float)
        rows = {"train": slice(0, len(cells))}
        held.append(ClientDataset({"features": features, "texts": cells[:, texts]}, rows))  # type: ignore[arg-type]
    return Schema(names, texts=("sex", "cp", "fbs", "restecg", "exang", "slope", "thal")), held


def prepared(answer: Answer, table: Table, *preparations: AnyPreparation) -> Table:
    schema, held = table
    for preparation in preparations:
        change = preparation.transform(answer(preparation.query, schema, held))
        schema, held = change.schema(schema), [change.apply(each) for each in held]
    return schema, held


def pooled(held: list[ClientDataset], name: str = "features", *, train: bool = False) -> np.ndarray:
    return np.concatenate([(each.split("train") if train else each).arrays[name] for each in held])


@needs_credit
def test_credit_one_hot_and_standardised_equal_scikit_learn(answer: Answer) -> None:
    compose, preprocessing = pytest.importorskip("sklearn.compose"), pytest.importorskip("sklearn.preprocessing")
    schema, held = banks()
    codes = ["SEX", "EDUCATION", "MARRIAGE"]
    after, coded = prepared(answer, (schema, held), one_hot(codes), standardise(), label_set())
    assert after.classes == ("0", "1")
    rest = [place for place, name in enumerate(schema.columns) if name not in codes]
    encoded = [schema.columns.index(name) for name in codes]
    theirs = compose.make_column_transformer(
        ("passthrough", rest), (preprocessing.OneHotEncoder(sparse_output=False), encoded)
    ).fit(pooled(held, train=True))
    names = [f"{name}={int(value)}" for name, values in zip(codes, theirs.transformers_[1][1].categories_, strict=True)
             for value in values]  # fmt: skip
    assert after.columns[len(rest) :] == tuple(names)
    scaler = preprocessing.StandardScaler().fit(theirs.transform(pooled(held, train=True)))
    np.testing.assert_allclose(pooled(coded), scaler.transform(theirs.transform(pooled(held))), rtol=0, atol=1e-9)


@needs_credit
def test_credit_folds_undocumented_codes_and_counts_them(answer: Answer) -> None:
    schema, held = banks()
    preparation = one_hot(["EDUCATION", "MARRIAGE"], min_count=200)
    result = answer(preparation.query, schema, held)
    train = pooled(held, train=True)
    for number, name in enumerate(("EDUCATION", "MARRIAGE")):
        values, rows = np.unique(train[:, schema.columns.index(name)], return_counts=True)
        common = rows >= 200
        assert result.names[number] == tuple(str(int(value)) for value in values[common])
        assert result.rows[number] == tuple(map(float, rows[common]))
        assert result.folded[number] == rows[~common].sum()
    assert [sentence.split(":")[0] for sentence in preparation.report(result, schema)] == [
        "column `EDUCATION`",
        "column `MARRIAGE`",
    ]


@needs_credit
def test_credit_by_public_ranges_stays_between_0_and_1(answer: Answer) -> None:
    _, held = prepared(answer, banks(), min_max({"AGE": (18, 100), "LIMIT_BAL": (0, 500_000)}))
    features = pooled(held)
    assert features[:, 0].max() == 1.0, "some limits are above 500,000"
    assert 0 < features[:, 4].min() < features[:, 4].max() < 1


@needs_heart
@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_heart_imputed_and_coded_equals_scikit_learn(answer: Answer, strategy: Any) -> None:
    sklearn_impute, preprocessing = pytest.importorskip("sklearn.impute"), pytest.importorskip("sklearn.preprocessing")
    schema, held = hospitals()
    fill = impute("constant", text="missing")
    after, coded = prepared(answer, (schema, held), impute(strategy), fill, one_hot(), standardise(schema.columns))
    numbers = sklearn_impute.SimpleImputer(strategy=strategy).fit_transform(pooled(held))
    texts = np.where(pooled(held, "texts") == "", "missing", pooled(held, "texts"))
    # Hospitals write 1 and 1.0: one category here, two to an encoder of strings.
    texts = np.array([[cell.removesuffix(".0") for cell in row] for row in texts.tolist()])
    encoder = preprocessing.OneHotEncoder(sparse_output=False).fit(texts)
    names = [name.replace("_", "=", 1) for name in encoder.get_feature_names_out(schema.texts).tolist()]
    assert after.columns == (*schema.columns, *names)
    assert after.texts == ()
    expected = np.column_stack([preprocessing.StandardScaler().fit_transform(numbers), encoder.transform(texts)])
    np.testing.assert_allclose(pooled(coded), expected, rtol=0, atol=1e-9)


@needs_heart
def test_heart_says_which_columns_are_mostly_missing(answer: Answer) -> None:
    schema, held = hospitals()
    preparation = impute("median")
    report = preparation.report(answer(preparation.query, schema, held), schema)
    missing = np.isnan(pooled(held)).sum(axis=0).tolist()
    assert report[0].startswith("missing values that were filled, of 920 training rows")
    assert all(f"`{name}` {count}" in report[0] for name, count in zip(schema.columns, missing, strict=True) if count)
    assert [sentence.split("`")[1] for sentence in report[1:]] == ["ca"]


@needs_heart
def test_heart_ordinal_equals_scikit_learn(answer: Answer) -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    schema, held = hospitals()
    _, coded = prepared(answer, (schema, held), ordinal(["thal", "cp"]))
    texts = pooled(held, "texts")[:, [1, 6]]
    texts = np.array([[cell.removesuffix(".0") for cell in row] for row in texts.tolist()])
    expected = preprocessing.OrdinalEncoder().fit_transform(np.where(texts == "", "-", texts))
    # "-" sorts before the digits: its 0 is our -1.
    expected -= (texts == "").any(axis=0)
    np.testing.assert_array_equal(pooled(coded)[:, 6:], expected)
