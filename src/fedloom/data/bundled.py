"""Scikit-learn's offline sets: real data without a download."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fedloom.core.component import component
from fedloom.data.memory import arrays
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled
from fedloom.errors import DataError

SetName = Literal["breast_cancer", "iris", "wine", "digits", "diabetes"]

CLASSES: dict[str, tuple[str, ...] | None] = {
    # What is looked for is class 1, the positive one; scikit-learn numbers these two the other way round.
    "breast_cancer": ("benign", "malignant"),
    "iris": ("setosa", "versicolor", "virginica"),
    "wine": ("class_0", "class_1", "class_2"),
    "digits": tuple("0123456789"),
    "diabetes": None,
}
"""Classes of each set in the order of their indices; None for regression."""


@component("fedloom.datasets", "sklearn")
def sklearn_set(
    dataset: SetName, *, partition: Partition, test: float = 0.25, validation: float = 0.0, seed: int = 0
) -> Pooled:
    """Return one of scikit-learn's offline sets, dealt to clients.

    Args:
        dataset: Which set. ``diabetes`` is a regression, the others are classifications.
        partition: A way to deal the rows to clients.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the partition and the split.

    Raises:
        ComponentError: When there is no such set.
        DataError: When scikit-learn is not installed.

    Example:
        >>> from fedloom.data.partition import iid
        >>> data = sklearn_set("iris", partition=iid(3), test=0.0)
        >>> data.schema().classes, data.population().examples
        (('setosa', 'versicolor', 'virginica'), 150)
    """
    loaded = load_set(dataset)
    classes = CLASSES[dataset]
    label = loaded.target if classes is None else np.array([str(each) for each in loaded.target_names])[loaded.target]
    return arrays(
        loaded.data,
        label,
        partition=partition,
        columns=[str(column) for column in loaded.feature_names],
        classes=classes,
        test=test,
        validation=validation,
        seed=seed,
        task="regression" if classes is None else "classification",
    )


def load_set(name: str) -> Any:
    """Return one of scikit-learn's offline sets as scikit-learn has it.

    Raises:
        DataError: When scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            f"the set {name!r} comes with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    return getattr(datasets, f"load_{name}")()
