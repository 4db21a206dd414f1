"""From the numeric columns of rows to what a model takes: one tensor of a shape, or several by name."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fedloom.core.data import FEATURES, LABEL, Schema
from fedloom.core.params import Vector
from fedloom.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Some columns of a row, and the shape that the model takes them in."""

    name: str
    columns: Vector | None
    """Positions; None for all, in their order."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a model takes of a row."""

    parts: tuple[Input, ...]
    named: bool
    """The model is called with one keyword argument a part, in place of one positional tensor."""
    dtype: np.dtype[Any]
    label_dtype: np.dtype[Any]
    device: torch.device

    def batch(self, features: Vector, labels: Vector | None, rows: Vector | slice) -> dict[str, torch.Tensor]:
        """Return rows as tensors of their own memory: a model may write to them."""
        tensors = {part.name: self._tensor(features, part, rows) for part in self.parts}
        if labels is not None:
            picked = np.array(labels[rows], self.label_dtype)
            tensors[LABEL] = torch.from_numpy(picked).to(self.device)
        return tensors

    def call(self, module: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return what the model makes of a batch."""
        if self.named:
            return module(**{part.name: batch[part.name] for part in self.parts})
        return module(batch[self.parts[0].name])

    def described(self, batch: Mapping[str, torch.Tensor]) -> str:
        """Return names, shapes and types of what the model was given."""
        return ", ".join(f"{part.name} {tuple(batch[part.name].shape)} {batch[part.name].dtype}" for part in self.parts)

    def _tensor(self, features: Vector, part: Input, rows: Vector | slice) -> torch.Tensor:
        picked = features[rows] if isinstance(rows, slice) else features.take(rows, axis=0)
        if part.columns is not None:
            picked = picked[:, part.columns]
        elif isinstance(rows, slice):
            picked = np.array(picked, self.dtype)  # else the tensor would be a view of the client's own rows
        own = np.ascontiguousarray(picked, self.dtype)
        return torch.from_numpy(own).to(self.device).view(-1, *part.shape)


def inputs_of(
    schema: Schema,
    *,
    shape: Sequence[int] | None,
    inputs: Mapping[str, Sequence[str]] | None,
    shapes: Mapping[str, Sequence[int]],
    dtype: str,
    device: torch.device,
) -> Inputs:
    """Return what the model takes of the rows of a schema.

    Raises:
        DataError: When a shape does not hold the columns, or a pattern names none.
    """
    regression = schema.classes is None
    if inputs is None:
        parts: tuple[Input, ...] = (_input(FEATURES, None, shape, width=len(schema.columns)),)
    else:
        found = {name: _positions(name, patterns, schema.columns) for name, patterns in inputs.items()}
        parts = tuple(_input(name, columns, shapes.get(name), width=len(columns)) for name, columns in found.items())
    return Inputs(
        parts=parts,
        named=inputs is not None,
        dtype=np.dtype(dtype),
        label_dtype=np.dtype(dtype) if regression else np.dtype(np.int64),
        device=device,
    )


def _input(name: str, columns: Vector | None, shape: Sequence[int] | None, *, width: int) -> Input:
    of_row = (width,) if shape is None else tuple(shape)
    if math.prod(of_row) != width or min(of_row, default=1) < 1:
        what = "shape" if name == FEATURES else f"shapes.{name}"
        raise DataError(f"{what} = {list(of_row)} holds {math.prod(of_row)} numbers; a row has {width} columns for it")
    return Input(name=name, columns=columns, shape=of_row)


def _positions(name: str, patterns: Sequence[str], columns: Sequence[str]) -> Vector:
    positions: list[int] = []
    for pattern in patterns:
        # A name that is there is meant as it stands, whatever signs it has.
        matching = [pattern] if pattern in columns else fnmatch.filter(columns, pattern)
        if not matching:
            raise DataError(f"inputs.{name} names {pattern!r}; no column is called so: {_some(columns)}")
        positions += [columns.index(column) for column in matching]
    return np.array(positions, np.int64)


def _some(columns: Sequence[str]) -> str:
    return ", ".join(columns[:8]) + (f", ... ({len(columns)} columns)" if len(columns) > 8 else "")
