"""``fedloom predict`` and ``fedloom evaluate``: a trained model on raw rows."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedloom import store
from fedloom.cli.output import write_json
from fedloom.cli.tables import figure, print_table
from fedloom.core.data import LABEL, ClientDataset
from fedloom.core.params import Vector
from fedloom.data.raw_rows import rows_of_csv
from fedloom.engines.trained_model import TrainedModel
from fedloom.errors import DataError, StoreError

ROW = "row"
"""Column of the number of a row in the file, from 1: rows keep their order."""
PREDICTION = "prediction"


def predict_rows(name: str, data: Path, *, out: Path | None, output: Path, json: bool) -> None:
    """Print a prediction for each row of a CSV: numbers as Python prints them, so that they read back the same.

    Raises:
        StoreError: When the model cannot be read, or ``out`` is there already.
        DataError: When the rows do not fit the model.
    """
    if out is not None and out.exists():
        raise StoreError(f"{out} exists and is left as it is; name another file")
    model = read_model(name, output)
    rows = rows_of_csv(data, model.raw)
    predicted = model.predict(rows)
    classes = model.schema.classes
    header, lines = [ROW, PREDICTION, *(f"p({name})" for name in classes or ())], list(_lines(predicted, classes))
    if json:
        written = None if out is None else str(out)
        if out is not None:
            store.write_text(out, _csv(header, lines))
        write_json(
            {"rows": len(lines), "classes": classes, "out": written, "predictions": _objects(predicted, classes)}
        )
        return
    text = _csv(header, lines)
    if out is None:
        sys.stdout.write(text)
        return
    store.write_text(out, text)
    sys.stdout.write(f"{out}: {len(lines)} rows\n")


def evaluate_rows(name: str, data: Path, *, output: Path, json: bool) -> None:
    """Print the figures of a model on the rows of a CSV that has the label.

    Raises:
        StoreError: When the model cannot be read.
        DataError: When the rows do not fit the model, or have no label.
    """
    model = read_model(name, output)
    rows = _labelled(model, data)
    figures = model.evaluate(rows)
    if json:
        write_json({"rows": len(rows), "metrics": figures})
        return
    sys.stdout.write(f"{len(rows)} rows of {data}\n")
    print_table(["metric", "value"], [[name, figure(value, 6)] for name, value in figures.items()])


def read_model(name: str, output: Path) -> TrainedModel:
    """Return the model of a file, of a run's folder, or of a run by its name in ``output``.

    Raises:
        StoreError: When there is none.
    """
    path = Path(name)
    return TrainedModel.read(path if path.exists() else store.find(output, name))


def _labelled(model: TrainedModel, data: Path) -> ClientDataset:
    classes = model.schema.classes
    rows = rows_of_csv(data, replace(model.raw, classes=classes), label=True)
    if LABEL not in rows.arrays:
        raise DataError(
            f"{data}: there is no column {model.raw.label!r}, which the model predicts: it is what predictions are "
            "compared with"
        )
    if classes is None or model.raw.classes is not None:
        return rows
    # A preparation agreed on the classes, so the model's own rows have names of classes as labels.
    names = np.array(classes)[np.asarray(rows.arrays[LABEL], dtype=np.int64)]
    return ClientDataset({**rows.arrays, LABEL: names}, rows.rows)


def _lines(predicted: Vector, classes: tuple[str, ...] | None) -> Iterator[list[str]]:
    for number, row in enumerate(predicted.tolist(), start=1):
        if classes is None:
            yield [str(number), repr(row)]
        else:
            yield [str(number), classes[int(np.argmax(row))], *(repr(value) for value in row)]


def _objects(predicted: Vector, classes: tuple[str, ...] | None) -> list[dict[str, Any]]:
    if classes is None:
        return [{PREDICTION: value} for value in predicted.tolist()]
    return [
        {PREDICTION: classes[int(np.argmax(row))], "probabilities": dict(zip(classes, row, strict=True))}
        for row in predicted.tolist()
    ]


def _csv(header: list[str], lines: list[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
