"""Patients at four hospitals, their features scaled by ranges that are public: no number is taken from the rows.

A feature with a range goes to -1 at its low end, 0 in the middle and 1 at its high end, and is cut there; one that is
measured from a natural zero goes to 0 there and to 1 at its top. A yes or no is 1/2 or -1/2. What is missing is put at
the middle of its range, which is the constant 0. Each row is scaled by itself, before the run.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import fedloom

HEART = Path(__file__).parents[3] / "shared" / "data" / "heart_disease"
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """Hospitals with training rows only, and the pooled test rows, which no hospital holds."""

    data: fedloom.data.Pooled
    train: int
    """Training rows of all hospitals together: a declared, public number."""
    test: Rows
    test_labels: npt.NDArray[np.int64]


def from_range(values: npt.ArrayLike, low: float, high: float) -> Rows:
    """Return values with the middle of the range at 0 and its ends at -1 and 1, cut there; NaN goes to 0."""
    scaled = 2 * (np.asarray(values, np.float64) - low) / (high - low) - 1
    return np.nan_to_num(np.clip(scaled, -1, 1), nan=0.0)


def from_zero(values: npt.ArrayLike, top: npt.ArrayLike) -> Rows:
    """Return values as a share of the top, cut at 1."""
    return np.clip(np.asarray(values, np.float64) / np.asarray(top, np.float64), 0, 1)


def yes_or_no(condition: npt.ArrayLike) -> Rows:
    """Return 1/2 for yes, -1/2 for no."""
    return np.asarray(condition, np.float64) - 0.5


# ---- Heart disease ------------------------------------------------------------------------------------------------

HEART_HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
RANGES = {"age": (20, 79), "trestbps": (90, 200), "chol": (130, 320), "thalach": (60, 200), "oldpeak": (0, 4)}
"""Age in years, systolic pressure in mm Hg and cholesterol in mg/dl: what the ASCVD Risk Estimator Plus of the American
College of Cardiology takes. Peak heart rate in 1/min: from the lowest normal rate at rest, 60, to 220 less an age of 20
(Fox, Naughton, Haskell 1971). ST depression in mm: up to twice the 2 mm that exercise testing calls a strong sign."""
_COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
HEART_FEATURES = (*RANGES, "sex", "fbs", "exang", "cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2")


def heart(folder: Path = HEART) -> Patients:
    """Return the heart disease data of four hospitals with the published folds and the published 13 features.

    A cholesterol or a blood pressure of 0 stands for one that was not measured.
    """
    lines = {name: (folder / f"processed.{name}.data").read_text().splitlines() for name in HEART_HOSPITALS}
    cells, labels, hospitals, folds = [], [], [], []
    with (folder / "splits.csv").open(newline="") as splits:
        for entry in csv.DictReader(splits):
            if entry["fold"] == "dropped":
                continue
            name = next(each for each in HEART_HOSPITALS if entry["hospital"].startswith(each[:2]))
            cells.append([float(cell) for cell in lines[name][int(entry["row"])].split(",")[: len(_COLUMNS)]])
            labels.append("disease" if int(entry["label"]) else "none")
            hospitals.append(name)
            folds.append(entry["fold"])
    features = heart_features(dict(zip(_COLUMNS, np.array(cells).T, strict=True)))
    return _held_out(
        features,
        np.array(labels),
        hospitals=np.array(hospitals),
        folds=np.array(folds),
        columns=HEART_FEATURES,
        classes=("none", "disease"),
    )


def heart_features(columns: dict[str, Rows]) -> Rows:
    """Return scaled features, shape ``(rows, 13)``, for the columns of the files by name."""
    measured = {
        **columns,
        **{name: np.where(columns[name] > 0, columns[name], np.nan) for name in ("trestbps", "chol")},
    }
    numbers = [from_range(measured[name], *ends) for name, ends in RANGES.items()]
    flags = [yes_or_no(columns[name] == 1) for name in ("sex", "fbs", "exang")]
    pains = [yes_or_no(columns["cp"] == kind) for kind in (2, 3, 4)]
    tracings = [yes_or_no(columns["restecg"] == kind) for kind in (1, 2)]
    return np.column_stack([*numbers, *flags, *pains, *tracings])


# ---- Breast cancer ------------------------------------------------------------------------------------------------

_RADIUS, _TEXTURE, _RATIO = 30.0, 50.0, 0.5
_TOPS = np.array([_RADIUS, _TEXTURE, 2 * math.pi * _RADIUS, math.pi * _RADIUS**2, *[_RATIO] * 6])
"""Of radius, texture, perimeter and area, and of six ratios that are 0 for a smooth, convex circle. No range of these
numbers is documented apart from their extremes in the data themselves, so these are round numbers by definition: one
length, 30 pixels, from which perimeter and area follow; 50 grey levels; and a half."""


def biopsies(*, seed: int) -> Patients:
    """Return scikit-learn's 569 biopsies at ``fedloom.data.hospitals``; the seed deals and splits them."""
    held = fedloom.data.hospitals(seed=seed)
    classes = held.schema().classes
    assert classes is not None, "the hospitals declare their classes"
    rows, labels, hospitals, folds = [], [], [], []
    for index in range(len(held.population())):
        name = held.population().id(index)
        for fold in ("train", "test"):
            part = held.client(name).split(fold)
            count = part.count(fold)
            rows.append(part.arrays["features"])
            labels.append(np.array(classes)[part.arrays["label"].astype(np.int64)])
            hospitals += [str(name)] * count
            folds += [fold] * count
    features = biopsy_features(np.concatenate(rows))
    names = held.schema().columns
    return _held_out(
        features,
        np.concatenate(labels),
        hospitals=np.array(hospitals),
        folds=np.array(folds),
        columns=names,
        classes=classes,
    )


def biopsy_features(rows: Rows) -> Rows:
    """Return scaled features for mean, standard error and worst of ten measures, shape ``(rows, 30)``.

    Sizes (radius, texture, perimeter, area) are measured from the middle of their range; ratios, and all standard
    errors, whose top is a tenth of the measure's, from zero.
    """
    mean, error, worst = rows[:, :10], rows[:, 10:20], rows[:, 20:]
    return np.column_stack([_nuclei(mean), from_zero(error, _TOPS / 10), _nuclei(worst)])


def _nuclei(rows: Rows) -> Rows:
    sizes = [from_range(rows[:, column], 0.0, _TOPS[column]) for column in range(4)]
    return np.column_stack([*sizes, from_zero(rows[:, 4:], _RATIO)])


def _held_out(
    features: Rows,
    labels: npt.NDArray[np.str_],
    *,
    hospitals: npt.NDArray[np.str_],
    folds: npt.NDArray[np.str_],
    columns: tuple[str, ...],
    classes: tuple[str, ...],
) -> Patients:
    train = folds == "train"
    data = fedloom.data.arrays(
        features[train],
        labels[train],
        clients=hospitals[train],
        columns=columns,
        classes=classes,
        fold=folds[train],
    )
    return Patients(
        data=data,
        train=int(train.sum()),
        test=features[~train],
        test_labels=(labels[~train] == classes[1]).astype(np.int64),
    )
