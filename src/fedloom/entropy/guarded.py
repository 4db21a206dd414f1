"""guarded: what a type that holds a secret refuses, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fedloom.errors import Error

T = TypeVar("T")


def guarded(what: str, *, instead: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator for a class whose values hold a secret.

    They print as ``<secret>``, or as the class says itself, and refuse ``==``, because the time that a comparison takes
    tells of the content; ``hash``, which would be a digest of it; ``pickle`` and ``copy``, by which it would leave its
    owner unnoticed.

    Args:
        what: The values, in the plural.
        instead: What to do in the place of what is refused.

    Example:
        >>> @guarded("boxes", instead="open them")
        ... class Box:
        ...     pass
        >>> Box()
        <secret>
        >>> Box() == Box()
        Traceback (most recent call last):
        fedloom.errors.Error: boxes are not compared, hashed, pickled or copied: open them
    """
    message = f"{what} are not compared, hashed, pickled or copied: {instead}"

    def refuse(*_given: object) -> Any:
        raise Error(message)

    def decorate(kind: type[T]) -> type[T]:
        if kind.__repr__ is object.__repr__:
            kind.__repr__ = lambda _self: "<secret>"  # type: ignore[method-assign]
        kind.__eq__ = refuse  # type: ignore[method-assign]
        kind.__reduce_ex__ = refuse  # type: ignore[method-assign]
        kind.__hash__ = None  # type: ignore[assignment]
        return kind

    return decorate
