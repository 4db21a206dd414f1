"""What a person is asked: a yes, or the passphrase of the offline root."""

from __future__ import annotations

import getpass
import os
import sys

from fedloom.errors import ConfigError, TrustError, Violation

PASSPHRASE = "FEDLOOM_ROOT_PASSPHRASE"
"""Name of the variable that holds the passphrase, where nobody sits at a terminal."""


def agreed(question: str) -> bool:
    """Ask a person, where one sits at a terminal; where none does, the answer is no."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def passphrase() -> str:
    """Return the passphrase of the root: of the environment, or of a person.

    Raises:
        ConfigError: When there is neither.
    """
    given = os.environ.get(PASSPHRASE)
    return _asked("Passphrase of the root: ") if given is None else given


def new_passphrase() -> str:
    """Return a passphrase for a new root: a person types it twice.

    Raises:
        ConfigError: When there is nobody to ask.
        TrustError: When the two differ.
    """
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    first = _asked("New passphrase of the root, five random words say: ")
    if _asked("Again: ") != first:
        raise TrustError("the two passphrases differ: nothing was made", reason="wrong_passphrase")
    return first


def _asked(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            [
                Violation(
                    where="standard input",
                    path=PASSPHRASE,
                    message="the root has a passphrase, and nobody is at a terminal to type it: set this variable for "
                    "the one command",
                )
            ]
        )
    return getpass.getpass(prompt)
