"""Where an exception came from, for the person who wrote the code that raised it."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parent.parent)
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))


def place_of(function: object) -> str:
    """Return ``file:line`` where a function is defined; its name where it is no plain function."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return repr(function) if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def blame(error: BaseException) -> str:
    """Return ``file:line`` of the last frame that is neither a library's nor fedloom's own; else of the last frame."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith((_OURS, *_LIBRARIES, "<"))]
    frame = (users or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"
