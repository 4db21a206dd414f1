"""Verdict: what was tried, what came of it and why, and whether fedloom holds."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedloom.core.aggregator import Abort
from fedloom.errors import Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One thing that was tried, and what came of it."""

    tried: str
    seen: str
    holds: bool
    """Whether the attacker got nothing that it should not have."""
    claimed: bool = True
    """Whether fedloom claims to stop it; False: it is a control, or documented as not stopped."""
    opened: tuple[frozenset[str], ...] = ()
    """Sums that the attacker could open and should not, by whose vectors are in them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client or the honest server would not go on."""

    who: str
    reason: str

    def __str__(self) -> str:
        return f"refused by {self.who}: {self.reason}"


def refused(tried: str, answer: object, *, opened: Iterable[frozenset[str]] = ()) -> Attempt:
    """Return an attempt that holds if it was refused or aborted, and no sum could be opened by it."""
    sums = tuple(opened)
    holds = isinstance(answer, Refusal | Abort) and not sums
    match answer:
        case Refusal():
            seen = str(answer)
        case Abort():
            seen = f"refused: {answer.reason}"
        case Error():
            seen, holds = f"refused: {answer}", not sums
        case _:
            seen = f"TAKEN: {type(answer).__name__}"
    return Attempt(tried=tried, seen=seen, holds=holds, opened=sums)


def error_of(call: Callable[[], object]) -> object:
    """Return the fedloom error that a call ends in, or what it returns."""
    try:
        return call()
    except Error as error:
        return error


def report(story: str | None, attempts: Iterable[Attempt]) -> int:
    """Print what was tried and what happened; return 1 if an attack that fedloom claims to stop succeeded."""
    print((story or "").strip())
    failed = 0
    with _silent("fedloom"):  # what it would warn of is among what is printed
        for number, attempt in enumerate(attempts, start=1):
            failed += attempt.claimed and not attempt.holds
            print(f"\n{number:3}. {attempt.tried}: {_word(attempt)}")
            print(textwrap.fill(attempt.seen, 110, initial_indent="     ", subsequent_indent="     "))
    print("\nfedloom holds." if not failed else f"\nTHE ATTACK SUCCEEDS: {failed} of the attempts above.")
    return int(failed > 0)


def _word(attempt: Attempt) -> str:
    if attempt.holds:
        return "held"
    return "BROKEN" if attempt.claimed else "succeeds; fedloom does not claim otherwise"


@contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
