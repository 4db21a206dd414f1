"""Models of several clients as the rows of one buffer, each row a whole number of machine vectors long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedloom.core.params import ParamSpec, Vector
from fedloom.learners.torch_flat import lent

LANE = 64
"""Numbers that rows are rounded up to: two registers of the widest vectors there are, in float32."""


def padded(numbers: int) -> int:
    """Return the length of a row that holds ``numbers``."""
    return -(-numbers // LANE) * LANE


class Pieces:
    """A buffer ``(clients, padded size)`` and the leaves of a layout in it; what pads a row stays zero."""

    def __init__(self, layout: ParamSpec, clients: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.layout, self.size = layout, layout.size
        self.flat = torch.empty((clients, padded(layout.size)), dtype=dtype, device=device)
        self.flat[:, layout.size :] = 0

    def fill(self, vectors: Sequence[torch.Tensor], *, skip: int = 0) -> None:
        """Put a vector in each row, but for its first numbers."""
        for row, vector in zip(self.flat, vectors, strict=True):
            row[skip : self.size] = vector[skip:]

    def cut(self, alive: int) -> list[torch.Tensor]:
        """Return the leaves of the first clients, each ``(clients, *shape)``, as views."""
        views, start = [], 0
        for leaf in self.layout.leaves:
            part = self.flat[:alive, start : start + leaf.size]
            views.append(part.view(alive, *leaf.shape))
            start += leaf.size
        return views

    def vectors(self) -> Vector:
        """Return the rows without what pads them; on a CPU a view."""
        rows: Vector = self.flat[:, : self.size].cpu().numpy()
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some steps of the first clients of a block."""

    params: Pieces
    starts: Sequence[torch.Tensor] | None
    """The clients' parameters before their first step; None in later windows."""
    rows: torch.Tensor
    """Shape ``(clients, steps, rows, columns)``."""
    counts: Sequence[int]
    """Steps that each client takes."""


def tensors(vectors: Sequence[Vector], like: torch.Tensor) -> list[torch.Tensor]:
    """Return vectors as tensors of a type and device, to be read alone; one that many share is converted once."""
    known: dict[int, torch.Tensor] = {}
    for vector in vectors:
        if id(vector) not in known:
            known[id(vector)] = torch.from_numpy(lent(np.asarray(vector))).to(like.device, like.dtype)
    return [known[id(vector)] for vector in vectors]
