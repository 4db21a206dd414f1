"""Names and shapes over one flat array: a model's parameters are a vector plus a layout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedloom.core.component import canonical_json
from fedloom.errors import Error

Vector: TypeAlias = npt.NDArray[Any]
"""``(d,)`` for one model, ``(clients, d)`` for a block of clients."""

Dtype = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One named array inside a vector; a "statistic" is measured, not trained (batch-norm's moving mean)."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["parameter", "statistic"] = "parameter"

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """The layout of a vector: its leaves, one after the other, each row-major.

    Example:
        >>> layout = ParamSpec((Leaf("coef", (1, 2)), Leaf("intercept", (1,))))
        >>> layout.size, layout.unflatten(np.array([1.0, 2.0, 3.0]))["intercept"].tolist()
        (3, [3.0])
    """

    leaves: tuple[Leaf, ...]
    size: int = field(init=False, compare=False, repr=False)
    """Number of coordinates of the whole vector."""

    def __post_init__(self) -> None:
        """Add the sizes up once: they are asked for with every message."""
        object.__setattr__(self, "size", sum(leaf.size for leaf in self.leaves))

    def flatten(self, tree: Mapping[str, Vector]) -> Vector:
        """Return the leaves of ``tree`` as one vector.

        Raises:
            Error: When names or shapes differ from the layout.
        """
        names = [leaf.name for leaf in self.leaves]
        if sorted(tree) != sorted(names):
            raise Error(f"flatten received the leaves {sorted(tree)}; this layout has {names}")
        for leaf in self.leaves:
            if tree[leaf.name].shape != leaf.shape:
                raise Error(f"leaf {leaf.name!r} has shape {tree[leaf.name].shape}; expected {leaf.shape}")
        return np.concatenate([tree[name].reshape(-1) for name in names]) if names else np.empty(0)

    def unflatten(self, vector: Vector) -> dict[str, Vector]:
        """Return views of a vector (or of each row of a block) by leaf name; nothing is copied.

        Raises:
            Error: When the last axis is not as long as the layout.
        """
        if vector.shape[-1] != self.size:
            raise Error(f"a vector of {vector.shape[-1]} numbers does not fit a layout of {self.size}")
        views: dict[str, Vector] = {}
        start = 0
        for leaf in self.leaves:
            views[leaf.name] = vector[..., start : start + leaf.size].reshape(vector.shape[:-1] + leaf.shape)
            start += leaf.size
        return views

    def mask(self, choose: Callable[[Leaf], bool]) -> npt.NDArray[np.bool_]:
        """Return True at the coordinates of the leaves that ``choose`` accepts."""
        chosen = [np.full(leaf.size, choose(leaf)) for leaf in self.leaves]
        return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.bool_)

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and kinds: both sides of a message mean the same layout."""
        leaves = [[leaf.name, list(leaf.shape), leaf.kind] for leaf in self.leaves]
        return hashlib.sha256(canonical_json(leaves)).hexdigest()


def model_sha256(layout: ParamSpec, params: Vector) -> str:
    """Return the identity of a model: SHA-256 of its layout's digest and its little-endian bytes."""
    state = hashlib.sha256(layout.digest.encode())
    state.update(np.ascontiguousarray(params.astype(params.dtype.newbyteorder("<"), copy=False)).tobytes())
    return state.hexdigest()
