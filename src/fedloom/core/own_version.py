"""Which fedloom this is: the one place that asks."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

FROM_SOURCES = "0"
"""Stands for a version where fedloom is not installed: older than any."""


@functools.cache
def own_version() -> str:
    """Return the version that is installed, as it was when it was first asked for: what this process runs.

    Example:
        >>> from importlib.metadata import version
        >>> own_version() == version("fedloom")
        True
    """
    try:
        return version("fedloom")
    except PackageNotFoundError:
        return FROM_SOURCES
