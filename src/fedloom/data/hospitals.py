"""The hospitals of the demonstration: scikit-learn's breast-cancer biopsies, dealt by a skewed case mix."""

from __future__ import annotations

import numpy as np

from fedloom.core.component import component
from fedloom.core.keys import Key, permutation
from fedloom.data.bundled import CLASSES, load_set
from fedloom.data.memory import arrays
from fedloom.data.pooled import Pooled

CASE_MIX = {"north": (169, 40), "east": (119, 51), "south": (55, 55), "west": (14, 66)}
"""Benign and malignant biopsies of each hospital: 19, 30, 50 and 82 per cent are malignant. All 569 rows are used."""


@component("fedloom.datasets")
def hospitals(*, test: float = 0.3, seed: int = 0) -> Pooled:
    """Return four unequal hospitals whose patients differ, as real ones do: a screening centre to a cancer clinic.

    Args:
        test: Share of each hospital's rows that is held back for test.
        seed: Which rows go where, and the split.

    Raises:
        DataError: When scikit-learn is not installed.

    Example:
        >>> data = hospitals()
        >>> [data.population().id(index) for index in range(4)]
        ['east', 'north', 'south', 'west']
    """
    loaded = load_set("breast_cancer")
    names = np.array([str(each) for each in loaded.target_names])[loaded.target]
    owner = np.empty(len(names), dtype="<U5")
    for place, cases in enumerate(("benign", "malignant")):
        rows = np.flatnonzero(names == cases)
        order = rows[permutation(Key.from_seed(seed).child("hospitals", cases), len(rows))]
        counts = [mix[place] for mix in CASE_MIX.values()]
        owner[order] = np.repeat(list(CASE_MIX), counts)
    columns = [str(column) for column in loaded.feature_names]
    return arrays(
        loaded.data, names, clients=owner, columns=columns, classes=CLASSES["breast_cancer"], test=test, seed=seed
    )
