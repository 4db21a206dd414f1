"""What a run and its Ray workers say to each other: the messages of worker processes, and what Ray adds.

What all stretches of a round have in common is put into the object store once; a worker gets that, and its stretch.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from fedloom.engines.ray_memory import Memory
from fedloom.engines.worker_messages import FromWorker, Phase, Work


class Stretch(Struct, frozen=True, kw_only=True):
    """Clients at places ``start`` to ``stop`` of the cohort: what of ``Work`` differs from worker to worker."""

    start: int
    stop: int
    committed: bytes
    states: tuple[bytes, ...]


class Report(Struct, frozen=True, kw_only=True):
    """A worker's answer, and its memory afterwards."""

    answer: FromWorker
    memory: Memory
    process: int


Message: TypeAlias = Work | Stretch | Phase
_REPORT = msgspec.msgpack.Decoder(Report)
_WORK = msgspec.msgpack.Decoder(Work)
_STRETCH = msgspec.msgpack.Decoder(Stretch)


def encoded(message: Message | Report) -> bytes:
    """Return a message as bytes."""
    return msgspec.msgpack.encode(message)


def read_report(data: bytes) -> Report:
    """Return the report that bytes hold."""
    return _REPORT.decode(data)


def read_work(common: bytes, mine: bytes) -> Work:
    """Return the work for one worker: what all have in common, and its stretch."""
    stretch = _STRETCH.decode(mine)
    return msgspec.structs.replace(
        _WORK.decode(common),
        start=stretch.start,
        stop=stretch.stop,
        committed=stretch.committed,
        states=stretch.states,
    )
