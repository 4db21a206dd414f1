"""A model file predicts raw rows as the run did, bit for bit, and says why where it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.engines.trained_model import TrainedModel
from fedloom.errors import DataError, StoreError

Make = Any


def raw(result: Any, rows: slice | None = None) -> ClientDataset:
    """Return raw rows of no split."""
    features = np.linspace(-3, 3, 4 * 37).reshape(37, 4) ** 3
    return ClientDataset({FEATURES: features if rows is None else features[rows]}, {})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_predicts_what_the_run_predicts_bit_for_bit(tmp_path: Path, experiment: Make, dtype: str) -> None:
    asked = experiment(rounds=3, dtype=dtype, prepare=[fedloom.standardise()])
    result = fedloom.local().run(asked, output=tmp_path)
    again = TrainedModel.read(result.folder)
    whole = again.predict(raw(result))
    assert whole.shape == (37, 2) and whole.tobytes() == result.model.predict(raw(result)).tobytes()
    for rows in (slice(0, 1), slice(5, 12), slice(36, 37)):
        assert again.predict(raw(result, rows)).tobytes() == whole[rows].tobytes(), "a row alone is another"
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, rtol=1e-12)


def test_a_file_evaluates_a_client_as_the_run_did(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=3, prepare=[fedloom.standardise()])
    result = fedloom.local().run(asked, output=tmp_path)
    model = TrainedModel.read(result.folder / "model.safetensors")
    for client, figures in result.clients.items():
        found = model.evaluate(asked.data.client(client).split("test"))
        for name in ("accuracy", "auroc", "log_loss", "brier", "balanced_accuracy", "average_precision"):
            assert found[name] == figures[f"eval/{name}"], f"{name} of {client}"


def test_a_start_that_is_gone_is_not_needed(tmp_path: Path, experiment: Make) -> None:
    start = tmp_path / "w0.npy"
    np.save(start, np.arange(5.0))
    result = fedloom.local().run(experiment(rounds=1, learner=fedloom.logistic(start=start)), output=tmp_path)
    start.unlink()
    assert TrainedModel.read(result.folder).params.tobytes() == result.params.tobytes()


def test_rows_that_do_not_fit_are_refused(tmp_path: Path, experiment: Make) -> None:
    model = fedloom.local().run(experiment(rounds=1, prepare=[fedloom.standardise()])).model
    with pytest.raises(DataError, match=r"features have shape \(2, 3\); expected \(rows, 4\): x0, x1, x2, x3"):
        model.predict(ClientDataset({FEATURES: np.ones((2, 3))}, {}))
    holed = np.ones((3, 4))
    holed[1:, 2] = np.nan
    with pytest.raises(DataError, match=r"column `x2` has no value in 2 rows \(the first is row 1, counted from 0\)"):
        model.predict(ClientDataset({FEATURES: holed}, {}))
    with pytest.raises(DataError, match="the rows have no label"):
        model.evaluate(ClientDataset({FEATURES: np.ones((3, 4))}, {}))
    empty = ClientDataset({FEATURES: np.ones((0, 4)), LABEL: np.ones(0, np.int64)}, {})
    assert model.predict(empty).shape == (0, 2)
    with pytest.raises(DataError, match="no rows to evaluate"):
        model.evaluate(empty)


def test_a_model_of_objects_made_in_python_is_refused_with_the_way_out(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=1)
    result = fedloom.local().run(replace(asked, learner=replace(asked.learner, spec=None)), output=tmp_path)
    with pytest.raises(StoreError, match=r"use result\.model in the program that trained it"):
        TrainedModel.read(result.folder)


def test_a_file_that_names_no_preparations_is_refused(tmp_path: Path) -> None:
    from fedloom.core.params import Leaf, ParamSpec
    from fedloom.store import write_model

    write_model(tmp_path / "model.safetensors", ParamSpec((Leaf("coef", (2,)),)), np.ones(2), {"digest": "0"})
    with pytest.raises(StoreError, match="does not say how its rows were prepared"):
        TrainedModel.read(tmp_path)
