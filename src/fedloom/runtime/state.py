"""RunState: everything that continuing a run needs, as one frozen value; and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec

from fedloom.core import codec
from fedloom.core.component import Json
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.errors import CodecError
from fedloom.runtime.record import RoundRecord

S = TypeVar("S")
_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState(Generic[S]):
    """Where a run stands between two messages.

    ``phase`` counts the preparations that are done; training comes after the last. ``included`` holds the last round
    of each client whose state that round changed and which may not know it yet.
    """

    digest: str
    phase: int
    round: int
    """Rounds of this phase that are done."""
    retry: int
    server: S
    stages: tuple[Any, ...]
    prepared: tuple[Json, ...] = ()
    included: Mapping[ClientId, RoundNumber] = field(default_factory=dict)
    pending: RoundRecord | None = None
    """A round whose step is taken and whose evaluation is not."""
    records: int = 0
    """Length of the history."""
    stopped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    digest: str
    phase: int
    round: int
    retry: int
    prepared: tuple[Json, ...]
    included: dict[ClientId, RoundNumber]
    pending: RoundRecord | None
    records: int
    stopped: str | None


def encode_state(state: RunState[Any]) -> bytes:
    """Return a state as bytes: its plain values as JSON, then server and stage states by the codec."""
    names = _Progress.__dataclass_fields__
    head = msgspec.json.encode({name: getattr(state, name) for name in names})
    return len(head).to_bytes(_LENGTH, "little") + head + codec.encode((state.server, state.stages))


def peek(data: bytes) -> tuple[str, int, tuple[Json, ...]]:
    """Return digest, phase and prepared results of an encoded state: what is needed to build the template.

    Raises:
        CodecError: When the bytes are damaged.
    """
    progress, _ = _split(data)
    return progress.digest, progress.phase, progress.prepared


def decode_state(data: bytes, like: RunState[S]) -> RunState[S]:
    """Return the state that ``data`` encodes; server and stage states are built as those of ``like``.

    Raises:
        CodecError: When the bytes are damaged, or anything differs from the template.
    """
    progress, rest = _split(data)
    server, stages = codec.decode(rest, (like.server, like.stages))
    fields = {name: getattr(progress, name) for name in _Progress.__dataclass_fields__}
    return replace(like, server=server, stages=stages, **fields)


def _split(data: bytes) -> tuple[_Progress, bytes]:
    length = int.from_bytes(data[:_LENGTH], "little")
    try:
        progress = msgspec.json.decode(data[_LENGTH : _LENGTH + length], type=_Progress)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"a saved state does not decode: {error}") from error
    return progress, data[_LENGTH + length :]
