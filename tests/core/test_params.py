"""ParamSpec: one flat vector, and views of it by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.params import Leaf, ParamSpec, model_sha256
from fedloom.errors import Error

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
layouts = st.lists(shapes, max_size=5).map(lambda each: ParamSpec(tuple(Leaf(f"p{n}", s) for n, s in enumerate(each))))
LAYOUT = ParamSpec((Leaf("coef", (2, 3)), Leaf("intercept", (2,)), Leaf("mean", (1,), "statistic")))


@quick
@given(layouts, st.sampled_from(["float32", "float64"]))
def test_flatten_after_unflatten_is_the_identity(layout: ParamSpec, dtype: str) -> None:
    vector = np.arange(layout.size, dtype=dtype)
    again = layout.flatten(layout.unflatten(vector))
    np.testing.assert_array_equal(again, vector)
    assert not layout.leaves or again.dtype == vector.dtype


@quick
@given(layouts, st.integers(0, 3))
def test_rows_of_a_block_unflatten_alike(layout: ParamSpec, clients: int) -> None:
    block = np.arange(clients * layout.size, dtype=float).reshape(clients, layout.size)
    views = layout.unflatten(block)
    for row in range(clients):
        for name, view in layout.unflatten(block[row]).items():
            np.testing.assert_array_equal(views[name][row], view)


def test_unflatten_copies_nothing() -> None:
    vector = np.zeros(9)
    LAYOUT.unflatten(vector)["intercept"][:] = 5.0
    assert vector.tolist() == [0.0] * 6 + [5.0, 5.0, 0.0]


def test_a_mask_chooses_coordinates_by_leaf() -> None:
    assert LAYOUT.mask(lambda leaf: leaf.kind == "statistic").tolist() == [False] * 8 + [True]
    assert ParamSpec(()).mask(lambda leaf: True).shape == (0,)


@pytest.mark.parametrize(
    "tree", [{}, {"coef": np.zeros((2, 3))}, {"coef": np.zeros((3, 2)), "intercept": np.zeros(2), "mean": np.zeros(1)}]
)
def test_a_tree_that_does_not_fit_is_refused(tree: dict[str, np.ndarray]) -> None:
    with pytest.raises(Error):
        LAYOUT.flatten(tree)


def test_a_vector_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Error, match="8 numbers does not fit a layout of 9"):
        LAYOUT.unflatten(np.zeros(8))


def test_a_digest_tells_names_shapes_kinds_and_order() -> None:
    others = [
        ParamSpec((Leaf("coef", (3, 2)), *LAYOUT.leaves[1:])),
        ParamSpec((Leaf("Coef", (2, 3)), *LAYOUT.leaves[1:])),
        ParamSpec((*LAYOUT.leaves[:2], Leaf("mean", (1,)))),
        ParamSpec(LAYOUT.leaves[::-1]),
        ParamSpec(LAYOUT.leaves[:2]),
        ParamSpec(()),
    ]
    assert len({layout.digest for layout in (LAYOUT, *others)}) == 7


def test_a_model_is_named_by_layout_type_and_little_endian_bytes() -> None:
    params = np.arange(9.0)
    assert model_sha256(LAYOUT, params) == model_sha256(LAYOUT, params.astype(">f8"))
    assert model_sha256(LAYOUT, params) != model_sha256(LAYOUT, params.astype(np.float32))
    assert model_sha256(LAYOUT, params) != model_sha256(ParamSpec((Leaf("w", (9,)),)), params)
    assert model_sha256(LAYOUT, params) != model_sha256(LAYOUT, params + 1e-12)
