"""k-means over silos, with the interface of scikit-learn's ``KMeans``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import ClusterMixin, TransformerMixin
from sklearn.metrics import euclidean_distances
from sklearn.utils.validation import check_is_fitted, validate_data

from fedloom.analytics import kmeans, moments
from fedloom.analytics.kmeans import nearest
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.errors import ComponentError
from fedloom.estimators.silos import SiloError, dataset, read_rows
from fedloom.estimators.training import FederatedEstimator


class FederatedKMeans(TransformerMixin, ClusterMixin, FederatedEstimator):  # type: ignore[misc]
    """k-means over silos, by Lloyd's algorithm: its rounds are those of ``KMeans`` on all rows together.

    A silo sends, for each centre, how many of its rows are nearest to it, and their sum. Starts are drawn around the
    mean of all rows, with their deviations by column, so nobody's row is published; several advance in the same rounds,
    and the tightest is kept.

    Args:
        n_clusters: Number of centres.
        init: "moments" draws starts as said above; or centres of shape ``(n_clusters, columns)``.
        n_init: Starts that are drawn; given centres are one start.
        max_iter: Most rounds in which centres move.
        tol: A start rests when the squared moves of its centres add up to this times the mean variance of a column.
        engine: What runs it; None: ``fedloom.local()``.
        seed: Of the drawn starts.

    Attributes: ``cluster_centers_``, ``inertia_``, ``n_iter_``, ``n_features_in_``, and ``labels_``: of one table an
        array, of a mapping of silos a mapping of arrays, which would stay at the silos.

    Example:
        >>> tables = {"a": np.array([[0.0], [1.0]]), "b": np.array([[9.0], [10.0]])}
        >>> sorted(FederatedKMeans(2).fit(tables).cluster_centers_.ravel().tolist())
        [0.5, 9.5]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Literal["moments"] | npt.ArrayLike = "moments",
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        engine: Any = None,
        seed: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.engine = engine
        self.seed = seed

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> FederatedKMeans:  # noqa: ARG002
        """Find centres over silos: a mapping of name to rows, or one table with the silo of each row in ``groups``.

        Raises:
            SiloError: When a silo has no rows or other columns, or all of them have fewer rows than there are centres.
        """
        silos = read_rows(self, X, groups)
        for name in ("n_clusters", "n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ComponentError(f"{name} = {getattr(self, name)}; expected 1 or more")
        if silos.rows < self.n_clusters:
            raise SiloError(f"n_samples={silos.rows} should be >= n_clusters={self.n_clusters}")
        engine, data = self._engine(), dataset(self, silos, codes=None, classes=())
        about = engine.query(moments(), data=data, seed=self.seed)
        mean, deviation = np.array(about.mean), np.sqrt(about.variance)
        starts = self._starts(mean, deviation)
        query = kmeans(
            starts.tolist(),
            rounds=self.max_iter,
            tolerance=self.tol * float(np.mean(about.variance)),
            seed=self.seed,
        )
        found = engine.query(query, data=data, seed=self.seed)
        self.cluster_centers_ = np.array(found.centres)
        self.inertia_ = float(sum(found.spread))
        self.n_iter_ = found.rounds
        labels = {name: nearest(rows, self.cluster_centers_).astype(np.int32) for name, rows in silos.features.items()}
        if silos.order is None:
            self.labels_: Any = labels
        else:
            self.labels_ = np.empty(silos.rows, dtype=np.int32)
            for name, rows in silos.order.items():
                self.labels_[rows] = labels[name]
        return self

    def predict(self, X: Any) -> Vector:
        """Return the nearest centre of each row."""
        return nearest(self._rows(X), self.cluster_centers_).astype(np.int32)

    def transform(self, X: Any) -> Vector:
        """Return the distance of each row to each centre."""
        distances: Vector = euclidean_distances(self._rows(X), self.cluster_centers_)
        return distances

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Return the negative sum of squared distances to the nearest centres."""
        rows = self._rows(X)
        return -float(((rows - self.cluster_centers_[nearest(rows, self.cluster_centers_)]) ** 2).sum())

    def _rows(self, X: Any) -> Vector:
        check_is_fitted(self)
        rows: Vector = validate_data(self, X, reset=False, dtype=(np.float64, np.float32)).astype(np.float64)
        return rows

    def _starts(self, mean: Vector, deviation: Vector) -> Vector:
        if isinstance(self.init, str):
            if self.init != "moments":
                raise ComponentError(
                    f'init = {self.init!r}; expected "moments", or centres: choosing rows (k-means++) publishes them'
                )
            draw = Key.from_seed(self.seed).child("kmeans", "starts").generator()
            drawn: Vector = mean + deviation * draw.standard_normal((self.n_init, self.n_clusters, len(mean)))
            return drawn
        centres = np.asarray(self.init, dtype=np.float64)
        if centres.shape != (self.n_clusters, len(mean)):
            raise SiloError(f"init has shape {centres.shape}; expected ({self.n_clusters}, {len(mean)})")
        return centres[None]
