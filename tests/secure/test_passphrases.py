"""Keys under a passphrase: they open with it, in their place and unchanged, and cost what they say."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from fedloom.errors import Error, TrustError
from fedloom.secure.passphrases import open_under, seal_under

WORDS = "five words of no poem"
SEALED = seal_under(WORDS, b"a key", place="root", cost=14)


def refusal(reason: str) -> Any:
    return pytest.raises(TrustError, check=lambda error: error.reason == reason)


def test_what_was_sealed_opens_again() -> None:
    assert open_under(WORDS, SEALED, place="root") == b"a key"
    assert open_under(WORDS, b"a line before\n" + SEALED.replace(b"\n", b"\r\n"), place="root") == b"a key"
    assert SEALED.startswith(b"-----BEGIN FEDLOOM SEALED KEY-----\n")


def test_two_sealings_have_nothing_in_common() -> None:
    assert SEALED.splitlines()[1][4:] != seal_under(WORDS, b"a key", place="root", cost=14).splitlines()[1][4:]


def test_another_passphrase_place_or_content_does_not_open() -> None:
    with refusal("wrong_passphrase"):
        open_under(WORDS + ".", SEALED, place="root")
    with refusal("wrong_passphrase"):
        open_under(WORDS, SEALED, place="intermediate")
    lines = SEALED.splitlines()
    content = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    for place in (2, 20, 60, len(content) - 1):
        content[place] ^= 1
        changed = b"\n".join((lines[0], base64.b64encode(content), lines[-1]))
        content[place] ^= 1
        with refusal("wrong_passphrase"):
            open_under(WORDS, changed, place="root")


@pytest.mark.parametrize("cost", [0, 13, 21, 63, 255])
def test_a_file_does_not_choose_a_cost_outside_the_bounds(cost: int) -> None:
    lines = SEALED.splitlines()
    content = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    content[1] = cost
    with refusal("unreadable"):
        open_under(WORDS, b"\n".join((lines[0], base64.b64encode(content), lines[-1])), place="root")
    with pytest.raises(Error, match="expected from 14 to 20"):
        seal_under(WORDS, b"a key", place="root", cost=cost)


@pytest.mark.parametrize(
    "sealed",
    [b"", b"-----BEGIN FEDLOOM SEALED KEY-----", SEALED[:60], SEALED.replace(b"A", b"!")],
    ids=["nothing", "a beginning", "cut off", "no base64"],
)
def test_what_is_nothing_sealed_is_unreadable(sealed: bytes) -> None:
    with refusal("unreadable"):
        open_under(WORDS, sealed, place="root")


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(Error, match="12 or more"):
        seal_under("elevenchars", b"a key", place="root", cost=14)


def test_scrypt_is_that_of_the_standard() -> None:
    """RFC 7914, section 12, second vector: the function below the file is the one that it names."""
    found = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    assert found.hex().startswith("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
