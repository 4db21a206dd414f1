"""What this process computes with: two runs have the same bytes where all of this is the same."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from threadpoolctl import threadpool_info

from fedloom.core.own_version import own_version


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Return versions by name: fedloom, python, numpy, scipy, the BLAS and its kernel, the platform.

    Example:
        >>> sorted(versions())
        ['blas', 'fedloom', 'numpy', 'platform', 'python', 'scipy']
    """
    return {
        "fedloom": own_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": _version("scipy"),
        "blas": _blas(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _blas() -> str:
    found = [
        " ".join(str(each[key]) for key in ("internal_api", "version", "architecture") if each.get(key))
        for each in threadpool_info()
        if each.get("user_api") == "blas" and "numpy" in str(each.get("filepath", ""))
    ]
    return found[0] if found else "unknown"
