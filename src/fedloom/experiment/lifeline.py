"""A pipe by which a process ends with the one that has started it, however that one came to its end.

The starter holds one end open and never writes. When it is gone, even by a kill that no handler sees, the system closes
that end. On Linux the kernel then ends the process itself, whatever it is at, code that never comes back to the
interpreter included; elsewhere a thread does, as soon as it gets its turn.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def lifeline() -> Iterator[tuple[int, ...]]:
    """Hold a pipe for a process that is started meanwhile, and ends with this one.

    Yields:
        The number that is to be passed on to it, and told to it; none where a system cannot pass numbers on.
    """
    if os.name != "posix":
        yield ()
        return
    ends = os.pipe()
    try:
        yield ends[:1]
    finally:
        for end in ends:
            os.close(end)


def end_with_starter(number: int) -> None:
    """End this process at once when the other end of a pipe is closed, and its group with it where it leads one.

    Args:
        number: Of the end to read from, as ``lifeline`` gave it to the starter.
    """
    leads = os.getpgrp() == os.getpid()
    whom = -os.getpgrp() if leads else os.getpid()
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(number, fcntl.F_SETOWN, whom)
            fcntl.fcntl(number, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_ASYNC)
    # On Linux, too: the starter may have been gone before the kernel was asked.
    threading.Thread(target=_wait, args=(number, whom), name="lifeline", daemon=True).start()


def _wait(number: int, whom: int) -> None:
    with suppress(OSError):
        os.read(number, 1)
    os.kill(whom, signal.SIGKILL)
