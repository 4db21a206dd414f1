"""Clients with pictures of digits: MNIST, where figures are taken, and other digits, where settings are found.

The other digits are scikit-learn's 1,797 pictures of 8 x 8 (Alpaydin and Kaynak 1998, optical recognition of
handwritten digits), redrawn at MNIST's size: 20 x 20 in the middle of 28 x 28, each a little turned, scaled, sheared
and moved, its strokes as sharp as those of scans. As many rows as MNIST has are drawn, and none of its own is read.
Training and test rows come from different originals.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fedloom

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
CLIENTS, ROWS = 1000, 60
CLASSES = tuple("0123456789")
Pictures = npt.NDArray[np.float32]
Digits = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitClients:
    """Clients with training rows only, and test rows that no client holds."""

    data: fedloom.data.Pooled
    test: Pictures
    test_digits: Digits


def mnist(folder: Path = MNIST, *, clients: int = CLIENTS) -> DigitClients:
    """Return the training images of MNIST, dealt at random, as many to each; pixels over 255, which is their range."""
    return _dealt(
        _pixels(folder / "train-images-idx3-ubyte.gz"),
        _labels(folder / "train-labels-idx1-ubyte.gz"),
        _pixels(folder / "t10k-images-idx3-ubyte.gz"),
        _labels(folder / "t10k-labels-idx1-ubyte.gz"),
        clients=clients,
    )


def redrawn(*, clients: int = CLIENTS, test: int = 10_000, seed: int = 0) -> DigitClients:
    """Return redrawn digits of scikit-learn: 1,200 originals for the clients, 597 for the test rows."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(loaded.target))
    pictures, digits = loaded.images[order], loaded.target[order].astype(np.int64)
    rows, held = _redraw(pictures[:1200], digits[:1200], clients * ROWS, generator)
    test_rows, test_digits = _redraw(pictures[1200:], digits[1200:], test, generator)
    return _dealt(rows, held, test_rows, test_digits, clients=clients)


def _dealt(rows: Pictures, digits: Digits, test: Pictures, test_digits: Digits, *, clients: int) -> DigitClients:
    names = np.array([f"client-{index:04d}" for index in range(clients)])
    owner = np.empty(len(rows), np.int64)
    owner[np.random.default_rng(0).permutation(len(rows))] = np.repeat(np.arange(clients), len(rows) // clients)
    data = fedloom.data.arrays(
        rows,
        digits.astype(str),
        clients=names[owner],
        classes=CLASSES,
        fold=np.full(len(rows), "train"),
    )
    return DigitClients(data=data, test=test, test_digits=test_digits)


def _redraw(
    pictures: npt.NDArray[Any], digits: Digits, count: int, generator: np.random.Generator
) -> tuple[Pictures, Digits]:
    """Return ``count`` pictures of 28 x 28, each made of an original that is drawn at random."""
    from scipy import ndimage

    chosen = generator.integers(len(pictures), size=count)
    large = {each: ndimage.zoom(np.pad(pictures[each], 1), 2.0, order=1) / 16 for each in np.unique(chosen)}
    turns = np.deg2rad(generator.normal(0.0, 5.0, count))
    sizes = np.exp(generator.normal(0.0, 0.06, count))
    shears = generator.normal(0.0, 0.08, count)
    centres = 13.5 + generator.normal(0.0, 0.5, (count, 2))
    rows = np.empty((count, 28, 28), np.float32)
    for row, which, turn, size, shear, centre in zip(rows, chosen, turns, sizes, shears, centres, strict=True):
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]] / size
        ndimage.affine_transform(large[which], matrix, offset=9.5 - matrix @ centre, output=row, order=1)
    return np.clip(0.5 + 3 * (rows - 0.4), 0, 1).reshape(count, 784), digits[chosen]


def _pixels(path: Path) -> Pictures:
    with gzip.open(path) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)
    return pixels.reshape(-1, 784).astype(np.float32) / np.float32(255)


def _labels(path: Path) -> Digits:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
