from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.events import (
    ComposedDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.store.events import decode_event, encode_event

numbers = st.floats(0, allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
events = st.recursive(
    st.one_of(
        st.just(NonPrivateDpEvent()),
        st.builds(GaussianDpEvent, numbers),
        st.builds(LaplaceDpEvent, numbers),
        st.builds(DiscreteGaussianDpEvent, numbers, numbers, counts, counts),
        st.builds(DiscreteLaplaceDpEvent, numbers, numbers),
    ),
    lambda inner: st.one_of(
        st.builds(PoissonSampledDpEvent, numbers, inner),
        st.builds(TruncatedPoissonSampledDpEvent, numbers, counts, counts, inner),
        st.builds(SampledWithoutReplacementDpEvent, counts, counts, inner),
        st.builds(SelfComposedDpEvent, inner, counts),
        st.builds(ComposedDpEvent, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(event=events)
def test_an_event_comes_back(event: DpEvent) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'["SkellamDpEvent",1.0]',
        b'["GaussianDpEvent"]',
        b'["GaussianDpEvent","1"]',
        b'["SelfComposedDpEvent",["GaussianDpEvent",1.0],1.5]',
        b'["ComposedDpEvent",["GaussianDpEvent",1.0]]',
    ],
)
def test_an_unknown_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(data)
