"""Gate: what a site asks itself before it carries out a task of a run, and before it lets anything be released."""

from __future__ import annotations

from typing import Protocol

from fedloom.core.ids import RunId
from fedloom.errors import PlanError
from fedloom.experiment.remote import RunFacts
from fedloom.store.federation_rows import RoundKey


class Undecided(Exception):
    """Nothing is answered yet: an operator has not said, or it is not the hour. The task is kept, and asked again."""


class Refusing(PlanError):
    """The site does not do this; ``code`` is all that is told outside."""

    def __init__(self, code: str, words: str) -> None:
        self.code = code
        super().__init__(words)


class Gate(Protocol):
    """What stands between an order and the rows of a site."""

    def follow(self, run: RunId) -> bool:
        """Take in what has changed of the site's rules before a task; return whether they are others now.

        Raises:
            Undecided: While they cannot be read: nothing is allowed.
        """
        ...

    def allow(self, key: RoundKey, step: int, facts: RunFacts | None) -> None:
        """Return if a step of a round may be carried out.

        Raises:
            Refusing: When it may not.
            Undecided: When nobody has said yet.
        """
        ...

    def tells_errors(self) -> bool:
        """Return whether the message of an error may leave, of a run that hides nothing."""
        ...

    def release(self, key: RoundKey) -> None:
        """Charge what the next message releases, before it is made.

        Raises:
            Refusing: When nothing is left to be spent.
        """
        ...

    def ready(self, run: RunId) -> bool:
        """Return whether something has changed for a run that was undecided."""
        ...

    def finish(self, run: RunId) -> None:
        """Take in that a run is over: what was set aside for it and not used is free, and nothing more of it begins."""
        ...


class OpenGate:
    """Lets everything through: where the judge of a run has the only word."""

    def follow(self, run: RunId) -> bool:
        """Return False."""
        del run
        return False

    def allow(self, key: RoundKey, step: int, facts: RunFacts | None) -> None:
        """Return."""
        del key, step, facts

    def tells_errors(self) -> bool:
        """Return False."""
        return False

    def release(self, key: RoundKey) -> None:
        """Return."""
        del key

    def ready(self, run: RunId) -> bool:
        """Return True."""
        del run
        return True

    def finish(self, run: RunId) -> None:
        """Return."""
        del run
