from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.events import DpEvent, GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent
from fedloom.store.events import decode_event, encode_event

numbers = st.floats(0, allow_nan=False, allow_infinity=False)
events = st.recursive(
    st.one_of(st.just(NonPrivateDpEvent()), st.builds(GaussianDpEvent, numbers)),
    lambda inner: st.builds(PoissonSampledDpEvent, numbers, inner),
)


@given(event=events)
def test_an_event_comes_back(event: DpEvent) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'["LaplaceDpEvent",1.0]', b'["GaussianDpEvent"]', b'["GaussianDpEvent","1"]']
)
def test_an_unknown_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(data)
