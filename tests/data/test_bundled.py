"""Scikit-learn's offline sets."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedloom.core.ids import ClientId
from fedloom.data import dirichlet, iid, sklearn_set
from fedloom.errors import ComponentError, DataError

ONE = ClientId("client-0")


def test_malignant_is_the_positive_class() -> None:
    data = sklearn_set("breast_cancer", partition=iid(1), test=0.0)
    assert data.schema().classes == ("benign", "malignant")
    assert np.bincount(data.client(ONE).arrays["label"]).tolist() == [357, 212]
    assert data.schema().columns[0] == "mean radius"


@pytest.mark.parametrize(("name", "rows", "classes"), [("iris", 150, 3), ("wine", 178, 3), ("digits", 1797, 10)])
def test_each_set_has_its_rows_and_classes(name: str, rows: int, classes: int) -> None:
    data = sklearn_set(name, partition=iid(2), test=0.0)  # type: ignore[arg-type]
    assert data.population().examples == rows
    assert len(data.schema().classes or ()) == classes


def test_diabetes_is_a_regression() -> None:
    data = sklearn_set("diabetes", partition=iid(1), test=0.0)
    assert data.schema().classes is None
    assert data.client(ONE).arrays["label"].dtype == np.float64


def test_the_spec_names_the_set_and_the_partition() -> None:
    spec = sklearn_set("iris", partition=dirichlet(2, 1.0)).spec
    assert spec is not None
    assert (spec.name, spec.arguments["dataset"], spec.arguments["partition"]["name"]) == (
        "sklearn",
        "iris",
        "dirichlet",
    )


def test_an_unknown_set_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(ComponentError, match=r"'iriss'.*: expected one of 'breast_cancer', 'iris'"):
        sklearn_set("iriss", partition=iid(2))  # type: ignore[arg-type]


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        sklearn_set("iris", partition=iid(2))
