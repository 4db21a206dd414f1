"""Privacy events as JSON, with the name of each: the closed union of ``core.events`` and nothing else."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import msgspec

from fedloom.core.component import Json, canonical_json
from fedloom.core.events import DpEvent

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(DpEvent)}


def encode_event(event: DpEvent) -> bytes:
    """Return an event as canonical JSON.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent
        >>> encode_event(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.5)))
        b'["PoissonSampledDpEvent",0.1,["GaussianDpEvent",1.5]]'
    """
    return canonical_json(_tree(event))


def decode_event(data: bytes) -> DpEvent:
    """Return the event that ``data`` encodes.

    Raises:
        ValueError: When it encodes none.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent
        >>> decode_event(encode_event(GaussianDpEvent(1.5)))
        GaussianDpEvent(noise_multiplier=1.5)
    """
    return _event(msgspec.json.decode(data))


def _tree(event: DpEvent) -> Json:
    values: list[Json] = []
    for each in fields(event):
        value = getattr(event, each.name)
        if isinstance(value, tuple):
            values.append([_tree(inner) for inner in value])
        else:
            values.append(_tree(value) if isinstance(value, get_args(DpEvent)) else value)
    return [type(event).__name__, *values]


def _event(tree: Any) -> DpEvent:
    match tree:
        case [str(name), *values] if name in _KINDS:
            kind = _KINDS[name]
            types = [each.type for each in fields(kind)]
            if len(types) == len(values):
                event: DpEvent = kind(*map(_value, values, types))
                return event
    raise ValueError(f"{tree!r} is no privacy event that this build knows")


def _value(value: Any, kind: Any) -> Any:
    """Return a field's value by the annotation of the field."""
    match kind, value:
        case "DpEvent", list():
            return _event(value)
        case "tuple[DpEvent, ...]", list():
            return tuple(_event(each) for each in value)
        case "float", float():
            return value
        case "int", int():
            return value
    raise ValueError(f"{value!r} is no {kind} of a privacy event")
