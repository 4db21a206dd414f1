"""What torch keeps once a process: its number of threads, and its generators of random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fedloom.core.keys import Key


class _Threads:
    """Counts who wants one thread: the first to come notes the number before, the last to leave puts it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = 1


_threads = _Threads()
_drawing = threading.RLock()
"""Torch has one generator a process: who seeds it has it alone."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: small models are faster, and two threads round differently.

    Part of the number is the process's own (MKL's), part the calling thread's: only the last to leave puts it back, or
    those still at work would round differently from then on.
    """
    with _threads.lock:
        if _threads.inside == 0:
            _threads.before = torch.get_num_threads()
        _threads.inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _threads.lock:
            _threads.inside -= 1
            if _threads.inside == 0:
                torch.set_num_threads(_threads.before)


@contextmanager
def seeded(key: Key, device: torch.device) -> Iterator[None]:
    """Draw what torch draws from a key, and leave its generators as they were."""
    with _drawing:
        generators = [torch.default_generator, *_generators_of(device)]
        before = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(key.torch_seed())
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


def _generators_of(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return []
    torch.cuda.init()
    place = torch.cuda.current_device() if device.index is None else device.index
    return [torch.cuda.default_generators[place]]
