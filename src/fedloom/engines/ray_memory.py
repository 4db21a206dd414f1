"""Memory of a worker and of the machine that it is on, measured; and how many workers fit."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

_SPARE = 10
"""One part in so many of a machine's memory stays free: Ray ends workers when it is nearly full."""
_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


class Memory(Struct, frozen=True, kw_only=True):
    """Bytes of one worker, and of the machine that it is on; 0 stands for what the system does not tell."""

    machine: str
    own: int
    """What the worker holds now, without what it shares: mapped rows, libraries."""
    peak: int
    """The most that it has held."""
    free: int
    total: int


def memory_now() -> Memory:
    """Return the memory of this process and of its machine.

    Example:
        >>> 0 <= memory_now().own <= memory_now().peak
        True
    """
    status, machine = _kilobytes(_STATUS), _kilobytes(_MEMINFO)
    shared = status.get("RssFile", 0) + status.get("RssShmem", 0)
    # The system keeps no peak without what is shared; what is shared now comes closest.
    peak = max((status.get("VmHWM") or _most_resident()) - shared, status.get("RssAnon", 0))
    free, total = machine.get("MemAvailable", 0), machine.get("MemTotal", 0)
    limit, used = _group_limit()
    if 0 < limit < total:
        free, total = min(free, max(0, limit - used)), limit
    return Memory(machine=platform.node(), own=status.get("RssAnon", 0), peak=peak, free=free, total=total)


def fitting(workers: Sequence[Memory], *, peak: int) -> int:
    """Return how many of a machine's workers can be at the highest peak at once: at least one.

    Args:
        workers: Each worker of one machine as it was measured last; the one measured last of all comes last.
        peak: The highest that any worker there has had.

    Example:
        >>> worker = Memory(machine="m", own=1, peak=1, free=15, total=20)
        >>> fitting([worker, worker], peak=5), fitting([worker, worker], peak=1)
        (3, 15)
    """
    last = workers[-1]
    if not last.total or not peak:
        return sys.maxsize
    room = last.free - last.total // _SPARE + sum(worker.own for worker in workers)
    return max(1, room // peak)


def _kilobytes(path: Path) -> dict[str, int]:
    """Return the sizes that a file of the system names, in bytes; empty where there is no such file."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(size) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _group_limit() -> tuple[int, int]:
    """Return the memory that a container may use, and what it uses, caches left out; 0, 0 where there is no limit."""
    try:
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        caches = re.search(r"^inactive_file (\d+)$", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        return 0, 0
    return limit, used - (0 if caches is None else int(caches[1]))


def _most_resident() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10
