"""What a run asks of the process it is in: one BLAS thread, freed memory kept, a log beside its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

_LARGE_BYTES = 24 << 20


@contextmanager
def steady_arithmetic() -> Iterator[None]:
    """Limit BLAS to one thread: with two, some products round differently."""
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        keep_freed_memory()
        yield


def keep_freed_memory() -> None:
    """Let the allocator reuse what blocks of clients free, in place of returning it to the system each time.

    glibc returns every freed array above a threshold, and the next one then costs a page fault every four kilobytes: a
    sixth of a round of small models. Its threshold rises to the largest array freed so far, up to 32 MB; this frees
    one that was never touched. Elsewhere it does nothing.
    """
    np.empty(_LARGE_BYTES, np.uint8)


class _RunLog(logging.FileHandler):
    """A log is worth no run and no traceback: what a full disk or a folder without write access refuses is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(folder: Path | None) -> Iterator[None]:
    """Write what the package logs, tracebacks of clients among it, to ``run.log`` in a run's folder."""
    if folder is None:
        yield
        return
    logger = logging.getLogger("fedloom")
    handler = _RunLog(folder / "run.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
