"""Standard scaling over silos, with the interface of scikit-learn's ``StandardScaler``."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fedloom.analytics import moments
from fedloom.analytics.standardise import is_constant
from fedloom.core.params import Vector
from fedloom.estimators.silos import dataset, read_rows
from fedloom.estimators.training import FederatedEstimator


class FederatedStandardScaler(OneToOneFeatureMixin, TransformerMixin, FederatedEstimator):  # type: ignore[misc]
    """Columns of mean 0 and deviation 1 over the rows of all silos; a silo sends two sums a column, twice.

    Args:
        with_mean: Subtract the mean.
        with_std: Divide by the deviation; a constant column is left as it is.
        engine: What runs it; None: ``fedloom.local()``.
        seed: Of the run's streams; the answer does not depend on it.

    Attributes: ``mean_``, ``var_``, ``scale_``, ``n_samples_seen_``, ``n_features_in_``, ``feature_names_in_``.

    Example:
        >>> scaler = FederatedStandardScaler().fit({"a": np.array([[1.0], [3.0]]), "b": np.array([[5.0], [7.0]])})
        >>> scaler.mean_.tolist(), scaler.var_.tolist(), scaler.n_samples_seen_
        ([4.0], [5.0], 4)
    """

    def __init__(self, *, with_mean: bool = True, with_std: bool = True, engine: Any = None, seed: int = 0) -> None:
        self.with_mean = with_mean
        self.with_std = with_std
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedStandardScaler:  # noqa: ARG002
        """Find means and variances over silos: a mapping of name to rows, or one table with ``groups``.

        Raises:
            SiloError: When a silo has no rows or other columns.
        """
        silos = read_rows(self, X, groups)
        data = dataset(self, silos, codes=None, classes=())
        answer = self._engine().query(moments(), data=data, seed=self.seed)
        self.mean_ = np.array(answer.mean)
        self.var_ = np.array(answer.variance)
        self.scale_ = np.where(is_constant(answer), 1.0, np.sqrt(self.var_))
        self.n_samples_seen_ = round(answer.count)
        return self

    def transform(self, X: Any) -> Vector:
        """Return rows with centred and scaled columns."""
        rows = self._rows(X)
        scaled: Vector = (rows - self.mean_ * self.with_mean) / (self.scale_ if self.with_std else 1.0)
        return scaled.astype(rows.dtype, copy=False)

    def inverse_transform(self, X: Any) -> Vector:
        """Return scaled rows in the units that they came in."""
        rows = self._rows(X)
        original: Vector = rows * (self.scale_ if self.with_std else 1.0) + self.mean_ * self.with_mean
        return original.astype(rows.dtype, copy=False)

    def _rows(self, X: Any) -> Vector:
        check_is_fitted(self)
        rows: Vector = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return rows
