"""The key of a store: 32 bytes of the operating system's entropy in a file that its owner alone may read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fedloom.entropy import Secret, fresh_secret, secret_of
from fedloom.errors import Error, StoreError
from fedloom.store.faults import explained
from fedloom.store.files import sync_folder


def make_key(path: Path) -> Secret:
    """Make a key where there is none, whole or not at all; return the one that is there then.

    Raises:
        StoreError: When it cannot be written, or what is there is no key.
    """
    if not path.exists():
        owner = fresh_secret()
        temporary = path.with_name(f".{path.name}.{fresh_secret().random_bytes(4).hex()}.tmp")
        with explained(path):
            try:
                with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(owner.stored())
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):  # of another process: that one counts
                    os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
    return read_key(path)


def read_key(path: Path) -> Secret:
    """Return the key that a file holds.

    Raises:
        StoreError: When the file is missing, open to others, or holds no key.

    Security:
        Adversary: other users of the machine. Whoever can read the file, and the superuser, has what the key protects.
    """
    if not path.exists():
        raise StoreError(f"{path} is missing: what it encrypts cannot be opened. Put it back from a backup")
    with explained(path):
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    if os.name == "posix" and mode & 0o077:
        raise StoreError(
            f"{path} is open to others (mode {mode:o}): who has read it can open what it protects. Make it 600 if "
            "nobody has; else move the folder away and begin anew"
        )
    try:
        return secret_of(data)
    except Error as error:
        raise StoreError(f"{path} is no key of 32 random bytes: put the right one back") from error
