"""Privacy events as JSON, with the name of each: the closed union of ``core.events`` and nothing else."""

from __future__ import annotations

from typing import Any, assert_never

import msgspec

from fedloom.core.component import Json, canonical_json
from fedloom.core.events import DpEvent, GaussianDpEvent, NonPrivateDpEvent, PoissonSampledDpEvent


def encode_event(event: DpEvent) -> bytes:
    """Return an event as canonical JSON.

    Example:
        >>> encode_event(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.5)))
        b'["PoissonSampledDpEvent",0.1,["GaussianDpEvent",1.5]]'
    """
    return canonical_json(_tree(event))


def decode_event(data: bytes) -> DpEvent:
    """Return the event that ``data`` encodes.

    Raises:
        ValueError: When it encodes none.

    Example:
        >>> decode_event(encode_event(GaussianDpEvent(1.5)))
        GaussianDpEvent(noise_multiplier=1.5)
    """
    return _event(msgspec.json.decode(data))


def _tree(event: DpEvent) -> Json:
    match event:
        case NonPrivateDpEvent():
            return ["NonPrivateDpEvent"]
        case GaussianDpEvent(noise_multiplier):
            return ["GaussianDpEvent", noise_multiplier]
        case PoissonSampledDpEvent(rate, inner):
            return ["PoissonSampledDpEvent", rate, _tree(inner)]
    assert_never(event)


def _event(tree: Any) -> DpEvent:
    match tree:
        case ["NonPrivateDpEvent"]:
            return NonPrivateDpEvent()
        case ["GaussianDpEvent", float(noise_multiplier)]:
            return GaussianDpEvent(noise_multiplier)
        case ["PoissonSampledDpEvent", float(rate), inner]:
            return PoissonSampledDpEvent(rate, _event(inner))
    raise ValueError(f"{tree!r} is no privacy event that this build knows")
