"""ClientDataset: rows of one client, and which are for what."""

from __future__ import annotations

import numpy as np

from fedloom.core.data import FEATURES, LABEL, ClientDataset
from fedloom.core.keys import Key
from fedloom.testing import rows

DATA = rows(Key.from_seed(1), 6, test=2)


def test_a_split_is_a_view_and_an_absent_one_is_empty() -> None:
    train = DATA.split("train")
    assert np.shares_memory(train.arrays[FEATURES], DATA.arrays[FEATURES])
    assert (DATA.count("train"), DATA.count("test"), DATA.count("validation")) == (6, 2, 0)
    assert DATA.split("validation").arrays[FEATURES].shape == (0, 3)
    assert train.split("train").count("train") == 6, "a split of a split is itself"


def test_the_fingerprint_tells_rows_and_splits_and_not_the_order_of_arrays() -> None:
    other = ClientDataset(dict(reversed(DATA.arrays.items())), dict(reversed(DATA.rows.items())))
    assert other.fingerprint == DATA.fingerprint
    label = DATA.arrays[LABEL].copy()
    label[0] ^= 1
    changed = [
        ClientDataset({**DATA.arrays, LABEL: label}, DATA.rows),
        ClientDataset(DATA.arrays, {"train": slice(0, 5), "test": slice(5, 8)}),
        ClientDataset({FEATURES: DATA.arrays[FEATURES]}, DATA.rows),
        ClientDataset({FEATURES: DATA.arrays[FEATURES].astype(np.float32), LABEL: DATA.arrays[LABEL]}, DATA.rows),
    ]
    assert len({data.fingerprint for data in (DATA, *changed)}) == 5
