"""TrainedModel: a model and all that turns raw rows into what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedloom.core.component import ComponentSpec, Json, spec_of
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema, Transform
from fedloom.core.learner import Learner, LearnerBuilder
from fedloom.core.params import Vector
from fedloom.core.query import AnyPreparation
from fedloom.engines.process import steady_arithmetic
from fedloom.engines.versions import versions
from fedloom.errors import ComponentError, DataError, StoreError
from fedloom.experiment.registry import resolve
from fedloom.store import read_model

MODEL = "model.safetensors"
"""Name of the model in a run's folder."""
_START = "start"
"""Argument of a learner that says where training begins: of no use to a model that is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model with its preparations.

    Rows are given as they were before any preparation, columns in the order of ``raw``.
    """

    learner: Learner
    params: Vector
    raw: Schema
    schema: Schema
    transforms: Sequence[Transform]

    @staticmethod
    def read(path: Path | str) -> TrainedModel:
        """Return the model of a file, or of a run's folder.

        Raises:
            StoreError: When there is no such model, it is damaged, or an object made in Python trained it.
            ComponentError: When no installed package provides one of its parts.
        """
        path = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        layout, params, metadata = read_model(path)
        try:
            raw = msgspec.json.decode(metadata["raw"], type=Schema)
            learner_tree = msgspec.json.decode(metadata["learner"])
            trees = msgspec.json.decode(metadata["preparations"])
            answers = msgspec.json.decode(metadata["prepared"])
        except (KeyError, msgspec.DecodeError) as error:
            raise StoreError(
                f"{path} does not say how its rows were prepared ({error}): train the model again"
            ) from error
        preparations = [_revived(tree, path) for tree in trees]
        transforms = [_transform(each, answer) for each, answer in zip(preparations, answers, strict=True)]
        schema = raw
        for transform in transforms:
            schema = transform.schema(schema)
        built = _revived(learner_tree, path)
        learner: Learner = built.build(schema) if isinstance(built, LearnerBuilder) else built
        if learner.layout != layout:
            raise StoreError(
                f"{path}: this version of {learner_tree['name']} has parameters of another layout. Use the fedloom "
                f"that trained the model: {metadata.get('versions', 'unknown')}"
            )
        return TrainedModel(learner=learner, params=params, raw=raw, schema=schema, transforms=tuple(transforms))

    def prepare(self, data: ClientDataset) -> ClientDataset:
        """Return raw rows as the model sees them."""
        for transform in self.transforms:
            data = transform.apply(data)
        return data

    def predict(self, data: ClientDataset) -> Vector:
        """Return class probabilities ``(rows, classes)``, or numbers ``(rows,)``, of all rows.

        A row's prediction has the same bytes in any company, and those that it has inside the run.

        Raises:
            DataError: When the rows have other columns, or a value is missing that no preparation fills.
        """
        features = self._checked(data).arrays[FEATURES]
        with steady_arithmetic():
            return self.learner.predict(self.params, features)

    def evaluate(self, data: ClientDataset) -> dict[str, float | None]:
        """Return the figures of the model on all rows, as a run names them without their phase: ``auroc``.

        Labels are text, numbers, or indices of classes where the raw schema names classes.

        Raises:
            DataError: As ``predict``; and when there are no labels, or one is of no class.
        """
        if LABEL not in data.arrays:
            raise DataError(f"the rows have no label; expected a column {self.raw.label or LABEL!r} to compare with")
        rows = self._checked(data)
        if not len(rows):
            raise DataError("there are no rows to evaluate")
        with steady_arithmetic():
            return dict(self.learner.evaluate(self.params, [rows])[0].scores)

    def _checked(self, data: ClientDataset) -> ClientDataset:
        features = data.arrays[FEATURES]
        if features.ndim != 2 or features.shape[1] != len(self.raw.columns):
            raise DataError(
                f"features have shape {features.shape}; expected (rows, {len(self.raw.columns)}): "
                f"{', '.join(self.raw.columns)}"
            )
        prepared = self.prepare(data)
        broken = ~np.isfinite(prepared.arrays[FEATURES])
        if broken.any():
            row, column = (int(place[0]) for place in np.nonzero(broken))
            raise DataError(
                f"column `{self.schema.columns[column]}` has no value in {int(broken[:, column].sum())} rows (the "
                f"first is row {row}, counted from 0) and no preparation fills it. Fill the values in, or train with "
                '[[prepare]] name = "impute"'
            )
        return prepared


def model_metadata(
    model: TrainedModel,
    *,
    preparations: Sequence[AnyPreparation],
    prepared: Sequence[Json],
    learner: ComponentSpec | None,
) -> dict[str, str]:
    """Return the metadata that make a file of parameters a model: what ``TrainedModel.read`` needs.

    Args:
        model: What is written.
        preparations: What built its transforms, each with its spec.
        prepared: What each preparation found.
        learner: What built its learner; None where no name can.
    """
    values = {
        "raw": model.raw,
        "schema": model.schema,
        "prepared": prepared,
        "preparations": [None if (spec := spec_of(each)) is None else spec.as_json() for each in preparations],
        "learner": _without_start(learner),
        "versions": versions(),
    }
    return {name: msgspec.json.encode(value).decode() for name, value in values.items()}


def _without_start(spec: ComponentSpec | None) -> Json:
    if spec is None:
        return None
    tree = spec.as_json()
    if _START in tree["arguments"]:
        tree["arguments"] = {**tree["arguments"], _START: None}
    return tree


def _revived(tree: Any, path: Path) -> Any:
    if tree is None:
        raise StoreError(
            f"{path} was trained with an object made in Python, which no name can rebuild: use result.model in the "
            "program that trained it"
        )
    try:
        return resolve(ComponentSpec(tree["group"], tree["name"], tree["arguments"]))
    except ComponentError as error:
        raise ComponentError(f"{path} needs {tree['name']!r}: {error}") from error


def _transform(preparation: AnyPreparation, answer: Any) -> Transform:
    return preparation.transform(msgspec.convert(answer, type=preparation.query.answer))
